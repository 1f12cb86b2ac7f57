"""Uncompressed factor."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.factors.base import Factor


@final
@dataclass(frozen=True, eq=False)
class Dense(Factor):
    """All ``d * d`` entries; the matrix is symmetric."""

    name: ClassVar[str] = "dense"

    matrix: Float[Tensor, "d d"]

    @classmethod
    @override
    def shapes(cls, dim: int) -> dict[str, tuple[int, ...]]:
        return {"matrix": (dim, dim)}

    @property
    @override
    def dim(self) -> int:
        return self.matrix.shape[0]

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        return self.matrix @ x

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        return self.matrix

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        return self.matrix.diagonal()
