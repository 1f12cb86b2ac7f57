"""From the matrices that a fit has found to pairs of factors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kfac_artifacts.factors import Dense, Diagonal, Factor
from kfac_artifacts.symmetric import mirror


def factor_pairs(
    start: tuple[Tensor, Tensor], A: Sequence[Tensor], B: Sequence[Tensor], terms: int
) -> list[tuple[Factor, Factor]]:
    """Make pairs ``(A, B)``, the largest first.

    Args:
        start: A and B of KFAC; the first A gets the trace of this one.
        A: Inputs' matrices, of norm 1 and orthogonal to one another.
        B: Outputs' matrices; if all are zero, so is the curvature.
        terms: How many pairs to give.

    Returns:
        The pairs.
    """
    if not any(bool(b.any()) for b in B):
        a, b = start  # there is nothing; copies, so that each can be saved
        scales = [1.0] + [0.0] * (terms - 1)
        return [(_factor(a * scale), _factor(b * scale)) for scale in scales]
    if len(B) > 1:
        A, B = _principal(A, B)
    A, B = list(A), list(B)
    trace = _trace(start[0]) / _trace(A[0])
    A[0], B[0] = A[0] * trace, B[0] / trace
    pairs = list(zip(A, B, strict=True))[:terms]
    return [(_factor(symmetric(a)), _factor(symmetric(b))) for a, b in pairs]


def whole(total: Tensor) -> Tensor:
    """A symmetric matrix by its upper triangle, in place; a diagonal as it is."""
    return mirror(total) if total.dim() == 2 else total


def symmetric(matrix: Tensor) -> Tensor:
    """The symmetric part of a matrix; a diagonal as it is."""
    return (matrix + matrix.mT) / 2 if matrix.dim() == 2 else matrix


def _principal(
    A: Sequence[Tensor], B: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The same sum of products with orthogonal B as well, the largest first."""
    flat = torch.stack([b.flatten() for b in B])
    _, rotation = torch.linalg.eigh((flat @ flat.mT).double())
    rotation = rotation.flip(1).to(flat.dtype)
    turned_A = torch.einsum("ri,i...->r...", rotation.mT.to(A[0]), torch.stack([*A]))
    turned_B = torch.einsum("ri,i...->r...", rotation.mT, torch.stack([*B]))
    signs = [1.0 if _trace(b) >= 0 else -1.0 for b in turned_B]
    return (
        [sign * a for sign, a in zip(signs, turned_A, strict=True)],
        [sign * b for sign, b in zip(signs, turned_B, strict=True)],
    )


def _trace(matrix: Tensor) -> Tensor:
    return matrix.trace() if matrix.dim() == 2 else matrix.sum()


def _factor(matrix: Tensor) -> Factor:
    return Dense(matrix) if matrix.dim() == 2 else Diagonal(matrix)
