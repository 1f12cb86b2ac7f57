"""Uncompressed factor."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.eigen import eigenvalue_range
from kfac_artifacts.factors.int8 import Int8Matrix, floats


@final
@dataclass(frozen=True, eq=False, repr=False)
class Dense(Factor):
    """All ``d * d`` entries; the matrix is symmetric.

    Attributes:
        matrix: The entries.

    Example:
        >>> factor = Dense(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        >>> factor
        Dense(2 x 2, 16 bytes)
        >>> [round(value, 4) for value in factor.eigenvalue_range()]
        [1.0, 3.0]
        >>> factor.add_diagonal(0.5).diagonal()
        tensor([2.5000, 2.5000])
    """

    name: ClassVar[str] = "dense"

    matrix: Float[Tensor, "d d"] | Int8Matrix

    @property
    @override
    def dim(self) -> int:
        return self.diagonal().shape[0]

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        if isinstance(self.matrix, Tensor):
            return self.matrix @ x
        return self.matrix.matmul(x)

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        return floats(self.matrix)

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        if isinstance(self.matrix, Tensor):
            return self.matrix.diagonal()
        return self.matrix.diagonal

    @override
    def eigenvalue_range(self) -> tuple[float, float]:
        return extremes(self.matrix)

    @override
    def add_diagonal(self, amount: float) -> "Dense":
        return Dense(lift(self.matrix, amount))


def lift(matrices: Tensor | Int8Matrix, amount: float) -> Tensor | Int8Matrix:
    """Add a number to the diagonals of symmetric matrices ``[..., s, s]``."""
    if isinstance(matrices, Int8Matrix):
        return matrices.add_diagonal(amount)
    shift = torch.full(matrices.shape[:-1], amount, dtype=torch.float64)
    return matrices + torch.diag_embed(shift.to(matrices))  # infinite if too large


def extremes(matrices: Tensor | Int8Matrix) -> tuple[float, float]:
    """Smallest and largest eigenvalue of symmetric matrices ``[..., s, s]``."""
    return eigenvalue_range(floats(matrices))
