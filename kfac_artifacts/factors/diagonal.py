"""Diagonal factor: the input covariance of a table, or a diagonal Gramian."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.factors.base import Factor


@final
@dataclass(frozen=True, eq=False)
class Diagonal(Factor):
    """``d`` entries; a table of V rows needs V numbers, never ``V * V``."""

    name: ClassVar[str] = "diagonal"

    values: Float[Tensor, " d"]

    @classmethod
    @override
    def shapes(cls, dim: int) -> dict[str, tuple[int, ...]]:
        return {"values": (dim,)}

    @property
    @override
    def dim(self) -> int:
        return self.values.shape[0]

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        return self.values[:, None] * x

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        return torch.diag(self.values)

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        return self.values
