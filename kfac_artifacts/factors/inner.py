"""Inner products of factors, by their structures."""

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.block_diagonal import BlockDiagonal
from kfac_artifacts.factors.diagonal import Diagonal
from kfac_artifacts.factors.int8 import floats
from kfac_artifacts.factors.low_rank import LowRank


def inner(one: Factor, other: Factor) -> Float[Tensor, ""]:
    """Compute ``⟨F, F'⟩``, the sum over the products of all entries, in float64.

    Args:
        one: A factor.
        other: A factor of the same size, in any structure.

    Returns:
        The inner product; the square of the Frobenius norm where both are the same.
    """
    if isinstance(other, Diagonal | LowRank) and not isinstance(one, Diagonal):
        one, other = other, one
    if isinstance(one, Diagonal):
        return one.diagonal().double() @ other.diagonal().double()
    if isinstance(one, LowRank):
        return _of_low_rank(one, other)
    if isinstance(one, BlockDiagonal) and one.like(other):
        assert isinstance(other, BlockDiagonal)  # noqa: S101 - narrows
        pairs = zip(one.runs, other.runs, strict=True)
        return torch.stack([_dot(floats(a), floats(b)) for a, b in pairs]).sum()
    return _dot(one.to_dense(), other.to_dense())


def _of_low_rank(one: LowRank, other: Factor) -> Tensor:
    """``Σ_k λ_k u_kᵀ F u_k``, and the product of the diagonals."""
    vectors = floats(one.vectors).double()
    wide = other.to(dtype=torch.float64)  # products of large factors stay finite
    forms = (vectors * wide.matmul(vectors.mT).mT).sum(1)
    total = one.values.double() @ forms
    if one.remainder is None:
        return total
    return total + one.remainder.double() @ other.diagonal().double()


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() * other.double()).sum()
