"""Sums of factors, in the structure that they share where that is possible."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.factors import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Factor,
    LowRank,
    floats,
)


@dataclass(frozen=True)
class Sum:
    """A weighted sum of factors in float64, and what bringing it into form lost.

    Attributes:
        factor: The sum.
        lost: Frobenius norm of what was left out.
        lift: What was added to the diagonal, so that no eigenvalue is negative.
    """

    factor: Factor
    lost: float = 0.0
    lift: float = 0.0


def shared_structure(factors: Sequence[NamedConfig], dim: int) -> NamedConfig | None:
    """Say in which structure a sum can stay.

    Args:
        factors: Structures of the summands.
        dim: Their size.

    Returns:
        The structure; permuted blocks must also have one permutation. None if the sum
        is dense.
    """
    names = {structure.name for structure in factors}
    if names == {LowRank.name}:
        ranks: list[Any] = [s.configuration["rank"] for s in factors]
        rest = any(structure.configuration["diagonal"] for structure in factors)
        return NamedConfig(
            LowRank.name, {"rank": min(max(ranks), dim), "diagonal": rest}
        )
    same = all(structure == factors[0] for structure in factors)
    linear = {Dense.name, Diagonal.name, BlockDiagonal.name}
    return factors[0] if same and names <= linear else None


def combine(factors: Sequence[Factor], weights: Sequence[float]) -> Sum:
    """Add factors up, with weights.

    Blocks of the same coordinates stay blocks and diagonals diagonals, exactly.
    Low-rank factors are joined and cut to the largest of their ranks; the diagonal of
    what is cut off goes into theirs. Anything else becomes dense.

    Args:
        factors: Factors of one size.
        weights: As many numbers, negative for what is taken out.

    Returns:
        The sum; low-rank ones are semidefinite again, whatever was taken out.
    """
    exact = [factor.to(dtype=torch.float64) for factor in factors]
    first = exact[0]
    if isinstance(first, LowRank):
        others = [f for f in exact if isinstance(f, LowRank)]
        if len(others) == len(exact):
            return _joined(others, weights)
    if isinstance(first, Diagonal) and all(isinstance(f, Diagonal) for f in exact):
        return Sum(Diagonal(_sum([f.diagonal() for f in exact], weights)))
    if isinstance(first, BlockDiagonal) and all(first.like(f) for f in exact):
        stacks = zip(
            *(f.runs for f in exact if isinstance(f, BlockDiagonal)), strict=True
        )
        runs = tuple(_sum([floats(run) for run in stack], weights) for stack in stacks)
        return Sum(BlockDiagonal(runs, first.permutation))
    total = weights[0] * first.to_dense()
    for factor, weight in zip(exact[1:], weights[1:], strict=True):
        total += weight * factor.to_dense()
    return Sum(Dense(total))


def in_structure_of(factor: Factor, like: Factor) -> Factor:
    """Compress a factor as another one is, so that it can be taken out of it.

    Taking a dense factor out of a compressed one would leave minus whatever compressing
    has dropped.

    Args:
        factor: What is to be taken out.
        like: What it is taken out of.

    Returns:
        The factor in that structure, if it is another that keeps less; else as it is.
    """
    if isinstance(like, BlockDiagonal) and not like.like(factor):
        blocks = like.configuration["blocks"]
        sizes = [size for count, size in blocks for _ in range(count)]
        return BlockDiagonal.of_dense(factor.to_dense(), sizes, like.permutation)
    if isinstance(like, LowRank) and not isinstance(factor, LowRank):
        matrix = factor.to_dense().to(torch.float64)
        rest = like.remainder is not None
        return LowRank.of_dense(matrix, len(like.values), remainder=rest)
    if isinstance(like, Diagonal) and not isinstance(factor, Diagonal):
        return Diagonal(factor.diagonal())
    return factor


def norm(factor: Factor) -> float:
    """The Frobenius norm."""
    return float(factor.inner(factor).clamp(min=0).sqrt())


def _joined(factors: Sequence[LowRank], weights: Sequence[float]) -> Sum:
    """Find the eigenvectors of the sum in the span of all, and keep the largest."""
    vectors = torch.cat([floats(f.vectors) for f in factors])
    pairs = list(zip(factors, weights, strict=True))
    values = torch.cat([w * f.values for f, w in pairs])
    basis, coordinates = torch.linalg.qr(vectors.mT)
    found = torch.linalg.eigh((coordinates * values) @ coordinates.mT)
    directions = (basis @ found.eigenvectors).mT
    rank = min(max(len(f.values) for f in factors), len(found.eigenvalues))
    order = found.eigenvalues.argsort(descending=True)
    kept, cut = order[:rank], order[rank:]
    largest = found.eigenvalues[kept].clamp(min=0)
    dropped = torch.cat([found.eigenvalues[cut], found.eigenvalues[kept] - largest])
    rests = [w * f.remainder for f, w in pairs if f.remainder is not None]
    lost = float(dropped.square().sum())
    if not rests:
        return Sum(LowRank(directions[kept], largest), lost**0.5)
    apart = torch.cat([directions[cut], directions[kept]]).square()
    moved = dropped @ apart
    total = torch.stack(rests).sum(0) + moved
    diagonal = total.clamp(min=0)
    lost += float((diagonal - total).square().sum() - moved.square().sum())
    return Sum(LowRank(directions[kept], largest, diagonal), max(lost, 0.0) ** 0.5)


def _sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = weights[0] * tensors[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + weight * tensor
    return total
