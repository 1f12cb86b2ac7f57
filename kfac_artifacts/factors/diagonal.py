"""Diagonal factor: the input covariance of a table, or a diagonal Gramian."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.factors.base import Factor, weighted
from kfac_artifacts.factors.int8 import Int8Entries, floats


@final
@dataclass(frozen=True, eq=False, repr=False)
class Diagonal(Factor):
    """``d`` entries; a table of V rows needs V numbers, never ``V * V``.

    Attributes:
        values: The diagonal.

    Example:
        >>> counts = Diagonal(torch.tensor([5.0, 0.0, 1.0]))  # of every token
        >>> counts.matmul(torch.ones(3, 1)).flatten()
        tensor([5., 0., 1.])
    """

    name: ClassVar[str] = "diagonal"

    values: Float[Tensor, " d"] | Int8Entries

    @property
    @override
    def dim(self) -> int:
        return self.diagonal().shape[0]

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        return self.diagonal()[:, None] * x

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        return torch.diag(self.diagonal())

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        return floats(self.values)

    @override
    def weighted_sum(
        self, others: Sequence[Factor], weights: Sequence[float]
    ) -> tuple[Factor, float] | None:
        if not all(isinstance(other, Diagonal) for other in others):
            return None
        diagonals = (factor.diagonal() for factor in (self, *others))
        return Diagonal(weighted(diagonals, weights)), 0.0

    @override
    def restructure(self, other: Factor) -> Factor:
        return other if isinstance(other, Diagonal) else Diagonal(other.diagonal())

    @override
    def _inner(self, other: Factor) -> Tensor:
        return self.diagonal().double() @ other.diagonal().double()

    @override
    def eigenvalue_range(self) -> tuple[float, float]:
        values = self.diagonal()
        return float(values.min()), float(values.max())

    @override
    def add_diagonal(self, amount: float) -> "Diagonal":
        return Diagonal(self.diagonal() + amount)


def identity(dim: int, like: Factor) -> Diagonal:
    """Make the identity, which no artifact keeps.

    Args:
        dim: Number of its rows.
        like: A factor of the number type and on the device that are wanted.

    Returns:
        The matrix I.
    """
    return Diagonal(like.diagonal().new_ones(dim))
