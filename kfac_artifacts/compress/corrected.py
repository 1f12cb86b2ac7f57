"""Eigen blocks: which vectors are kept, and their eigenvalues.

Of orthonormal vectors, those of A given, the vectors of B along which the squares of S
add up to most are the ones whose part of the block is nearest to it in the Frobenius
norm: what is lost is the sum of all other squares.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Artifact, Block, Loss
from kfac_artifacts.compress.compress_factor import Compressed
from kfac_artifacts.compress.factor_fitness import with_fitness
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.factors import Diagonal, Factor, eigenvalue_ratio, floats


class KeptVectors:
    """Which vectors of A and B were kept, and where their eigenvalues are.

    Args:
        artifact: What is compressed; A and B of a block come before its S.
        fitness: Whether to measure for what else than a penalty S is fit.
    """

    def __init__(self, artifact: Artifact, *, fitness: bool = False) -> None:
        self._bases = {
            block.factors[-1]: block.bases
            for block in artifact.blocks.values()
            if block.bases
        }
        self._artifact = artifact
        self._kept: dict[str, tuple[Tensor, int]] = {}
        self._fitness = fitness

    def remember(self, name: str, original: Original, found: Factor) -> None:
        """Find the vectors of a compressed factor among those that it had."""
        if original.basis:
            new, old = _vectors(found), _vectors(original.factor)
            self._kept[name] = (new @ old.mT).abs().argmax(1), len(old)

    def narrowed(self, name: str, original: Original) -> Original:
        """Give S without what belongs to vectors that are gone, A and B with worth.

        Args:
            name: Of the factor.
            original: The factor.

        Returns:
            What is to be compressed.
        """
        if original.basis:
            return replace(original, worth=partial(self._worth, name))
        if name not in self._bases:
            return original
        values = original.factor.diagonal().cpu()[self._places(name)]
        return replace(original, factor=Diagonal(values))

    def with_cut(
        self, name: str, whole: Original, narrowed: Original, found: Compressed
    ) -> Compressed:
        """Count what was cut off among what was lost."""
        counted = _with_cut(whole, narrowed, found)
        if counted is found or counted.loss is None or not self._fitness:
            return counted
        values = torch.zeros_like(whole.factor.diagonal().cpu())
        values[self._places(name)] = found.factor.diagonal().to(values)
        loss = with_fitness(counted.loss, Diagonal(values), whole.factor)
        return replace(counted, loss=loss)

    def _worth(self, name: str) -> Tensor:
        blocks = self._artifact.blocks.values()
        kept = {factor: places for factor, (places, _) in self._kept.items()}
        return worth(name, blocks, partial(squares, self._artifact), kept)

    def _places(self, name: str) -> Tensor:
        (inputs, d_in), (outputs, _) = (self._kept[n] for n in self._bases[name])
        return (outputs[:, None] * d_in + inputs).flatten()


def squares(artifact: Artifact, block: Block) -> Float[Tensor, "o i"]:
    """Square S of an eigen block, a row for every vector of B."""
    inputs, _, corrected = block.factors
    rank: Any = artifact.factors.structure(inputs).configuration["rank"]
    S = artifact.factors[corrected].diagonal().cpu().double()
    return S.square().view(-1, rank)


def worth(
    name: str,
    blocks: Iterable[Block],
    table: Callable[[Block], Tensor],
    kept: Mapping[str, Tensor],
) -> Float[Tensor, " r"]:
    """Add up the squares of S along every vector of an A or a B.

    Args:
        name: Of that factor.
        blocks: All blocks that may have it.
        table: Gives the squares of a block.
        kept: Of an A the vectors that are kept: along others B has nothing.

    Returns:
        One number for each of its vectors.
    """
    found = []
    for block in blocks:
        if name in block.bases:
            inputs, outputs = block.bases
            along = table(block)
            if name == outputs:
                along = (along[:, kept[inputs]] if inputs in kept else along).mT
            found.append(along.sum(0))
    return torch.stack(found).sum(0)


def _with_cut(whole: Original, narrowed: Original, found: Compressed) -> Compressed:
    before = narrowed.factor.diagonal().double().square().sum()
    size = whole.factor.diagonal().double().square().sum()
    cut = (
        max(float(size - before), 0.0)
        if whole.factor.dim > narrowed.factor.dim
        else 0.0
    )
    if cut == 0:
        return found
    rounding = found.loss.error if found.loss is not None else 0.0
    error = ((cut + rounding**2 * float(before)) / float(size)) ** 0.5
    if found.loss is not None:
        return replace(found, loss=replace(found.loss, error=error))
    ratio = eigenvalue_ratio(*found.factor.eigenvalue_range())
    return replace(found, loss=Loss(error, ratio, 0.0))


def _vectors(factor: Any) -> Tensor:
    return floats(factor.vectors).cpu().double()
