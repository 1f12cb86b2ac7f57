"""Whether the matrix of a factor is positive semi-definite up to rounding."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kfac_artifacts.factors.base import Factor, eigenvalue_ratio
from kfac_artifacts.factors.block_diagonal import BlockDiagonal
from kfac_artifacts.factors.dense import Dense
from kfac_artifacts.factors.int8 import floats
from kfac_artifacts.factors.pruned import Pruned

CLEARLY = 1e-2
"""How negative λ_min / λ_max may be. Rounding gives some thousandths, which do no harm;
pruning gives tenths, and training runs away along what is rewarded."""
EXACTLY = 1e-5
"""How negative it may be of factors that are stored exactly."""
MOST_ROWS = 16384
"""Rows of a matrix of which eigenvalues are computed: a small file of a pruned factor
may stand for a larger one."""


def rounding(*, exact: bool) -> float:
    """How negative λ_min / λ_max may be, by what storing does (``spec``, 4.7).

    Args:
        exact: Whether it is known that numbers were stored as they are.

    Returns:
        The largest share of the largest eigenvalue.
    """
    return EXACTLY if exact else CLEARLY


def lowest(factor: Factor, allowed: float) -> float:
    """Find λ_min / λ_max where it may matter.

    Args:
        factor: A finite symmetric factor.
        allowed: How negative the ratio may be.

    Returns:
        The ratio, from float64; zero where a Cholesky decomposition shows that it is
        not below ``-allowed``.
    """
    matrices = list(_matrices(factor))
    if matrices and _raised_is_definite(matrices, allowed):
        return 0.0
    return eigenvalue_ratio(*factor.to(dtype=torch.float64).eigenvalue_range())


def dear_rows(factor: Factor) -> int:
    """Rows of the largest matrix that has to be formed for eigenvalues; 0 if none."""
    if isinstance(factor, BlockDiagonal):
        runs: list[list[int]] = factor.configuration["blocks"]
        return max(size for _, size in runs)
    return factor.dim if isinstance(factor, Dense | Pruned) else 0


def _matrices(factor: Factor) -> Iterator[Tensor]:
    """Stacks of the matrices of which eigenvalues are dear; none if they are cheap."""
    if isinstance(factor, BlockDiagonal):
        yield from map(floats, factor.runs)
    elif isinstance(factor, Dense | Pruned):
        yield factor.to_dense()[None]


def _raised_is_definite(stacks: list[Tensor], allowed: float) -> bool:
    """Whether all have a Cholesky decomposition once their diagonals are raised."""
    unit = max(float(stack.abs().max()) for stack in stacks)
    if unit == 0:
        return True
    scaled = [stack / unit for stack in stacks]  # no sum is beyond the number type
    shift = allowed * max(_largest(stack) for stack in scaled)
    for stack in scaled:
        stack.diagonal(dim1=-2, dim2=-1).add_(shift)
    infos = [torch.linalg.cholesky_ex(stack).info for stack in scaled]
    return not any(bool(info.any()) for info in infos)


def _largest(matrices: Tensor) -> float:
    """The largest eigenvalue of a stack, from below, by power iteration."""
    tiny = torch.finfo(matrices.dtype).tiny
    x = matrices.diagonal(dim1=-2, dim2=-1)[..., None].abs().sqrt()
    for _ in range(10):
        x = matrices @ (x / x.norm(dim=-2, keepdim=True).clamp(min=tiny))
    x = x / x.norm(dim=-2, keepdim=True).clamp(min=tiny)
    return float((x * (matrices @ x)).sum(dim=(-2, -1)).max())
