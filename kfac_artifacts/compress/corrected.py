"""Eigenvalues of eigen blocks, cut to the vectors that are kept."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, Loss
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
        self._kept: dict[str, tuple[Tensor, int]] = {}
        self._fitness = fitness

    def remember(self, name: str, original: Original, found: Factor) -> None:
        """Find the vectors of a compressed factor among those that it had."""
        if original.basis:
            new, old = _vectors(found), _vectors(original.factor)
            self._kept[name] = (new @ old.mT).abs().argmax(1), len(old)

    def narrowed(self, name: str, original: Original) -> Original:
        """Give a factor without the eigenvalues of vectors that are gone."""
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

    def _places(self, name: str) -> Tensor:
        (inputs, d_in), (outputs, _) = (self._kept[n] for n in self._bases[name])
        return (outputs[:, None] * d_in + inputs).flatten()


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
