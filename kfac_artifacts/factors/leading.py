"""A factor without its last coordinate: the constant of a bias that is not there."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.dense import Dense
from kfac_artifacts.factors.int8 import Numbers


@final
@dataclass(frozen=True, eq=False, repr=False)
class Leading(Factor):
    """The leading ``(d - 1) x (d - 1)`` part of a factor, never stored itself.

    Attributes:
        whole: The factor.
    """

    name: ClassVar[str] = "leading"

    whole: Factor

    @property
    @override
    def dim(self) -> int:
        return self.whole.dim - 1

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        return self.whole.matmul(torch.cat([x, x.new_zeros(1, x.shape[1])]))[:-1]

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        return self.whole.to_dense()[:-1, :-1]

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        return self.whole.diagonal()[:-1]

    @override
    def eigenvalue_range(self) -> tuple[float, float]:
        return self.whole.eigenvalue_range()  # Cauchy: those of a part are within it

    @override
    def fields(self) -> dict[str, Numbers]:
        return self.whole.fields()

    @override
    def add_diagonal(self, amount: float) -> "Leading":
        return Leading(self.whole.add_diagonal(amount))


def without_constant(factor: Factor) -> Factor:
    """Drop the last coordinate of a factor, as cheaply as its structure allows."""
    if isinstance(factor, Dense):
        matrix = factor.to_dense()  # a view, if it is kept in full
        return Dense(matrix[:-1, :-1])
    return Leading(factor)
