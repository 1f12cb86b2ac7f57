"""The interface every factor structure fulfils."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor


class Factor(ABC):
    """A symmetric ``d x d`` matrix, held in a structure that may be smaller.

    Subclasses are frozen dataclasses whose fields are tensors and nothing else;
    storage, device moves and sizes are derived from those fields.
    """

    name: ClassVar[str]
    """The structure's name in the manifest."""

    @classmethod
    @abstractmethod
    def shapes(cls, dim: int) -> dict[str, tuple[int, ...]]:
        """Give the shape of every field of a ``dim x dim`` factor."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of rows, which is the number of columns."""

    @abstractmethod
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Multiply the factor with ``x`` without materialising the factor."""

    @abstractmethod
    def to_dense(self) -> Float[Tensor, "d d"]:
        """Materialise the matrix; the reference for every other method."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " d"]:
        """The diagonal, without materialising the matrix."""

    def tensors(self) -> dict[str, Tensor]:
        """Name the tensors that make up this factor, as they are stored."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Memory held by the factor, in bytes."""
        return sum(t.nbytes for t in self.tensors().values())

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Factor":
        """Move to a device or convert to a dtype; returns a new factor."""
        moved = {k: t.to(device=device, dtype=dtype) for k, t in self.tensors().items()}
        return type(self)(**moved)
