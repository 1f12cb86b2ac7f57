"""Folded tokens ``[N * T, d]``, example after example, and rows routed out of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """How the tokens of a batch belong to its examples.

    Attributes:
        count: Number N of examples.
        mask: Which positions are real, ``[N, T]``, or None when all are.
    """

    count: int
    mask: Tensor | None

    def fault(self, x: Tensor) -> str | None:
        """Say why the rows of a tensor cannot be those of the examples, if so."""
        rows, shape = x.shape[:-1].numel(), list(x.shape)
        if x.dim() < 2 or rows % self.count or (x.dim() > 2 and len(x) != self.count):
            return f"its input {shape} is not that of {self.count} examples"
        if self.mask is not None and not self._pooled(x) and rows != self.mask.numel():
            return (
                f"the positions of its input {shape} are not those of the "
                f"attention mask {list(self.mask.shape)}"
            )
        return None

    def real(self, x: Tensor) -> Bool[Tensor, "n p"]:
        """Which rows of a folded tensor are real, as positions of the examples."""
        if self.mask is not None and not self._pooled(x):
            return self.mask
        positions = x.shape[:-1].numel() // self.count
        return torch.ones(self.count, positions, dtype=torch.bool, device=x.device)

    def unfold(self, x: Tensor) -> Tensor:
        """Bring ``[N * P, d]`` or ``[N, …, d]`` into ``[N, P, d]``."""
        if x.dim() == 3 and len(x) == self.count:
            return x
        return x.reshape(self.count, -1, x.shape[-1])

    def _pooled(self, x: Tensor) -> bool:
        return x.shape[:-1].numel() == self.count


@dataclass(frozen=True)
class Places:
    """Where routed rows go: every example gets as many positions as the fullest.

    Attributes:
        shape: Numbers of examples and of positions.
        example: Which example each row belongs to.
        position: Which of the example's positions it takes.
    """

    shape: tuple[int, int]
    example: Tensor
    position: Tensor

    @classmethod
    def of(cls, rows: Int[Tensor, " m"], count: int, positions: int) -> "Places":
        """Give places to rows out of ``count * positions`` folded tokens."""
        example = rows // positions
        order = example.argsort(stable=True)
        grouped = example[order]
        first = torch.searchsorted(grouped, grouped)
        position = torch.empty_like(rows)
        position[order] = torch.arange(len(rows), device=rows.device) - first
        width = int(position.max()) + 1 if len(rows) else 1
        return cls((count, width), example, position)

    def put(self, values: Tensor) -> Tensor:
        """``[m, …]`` to ``[N, P, …]``, zero where there is no row."""
        empty = values.new_zeros(*self.shape, *values.shape[1:])
        return empty.index_put((self.example, self.position), values)

    def take(self, canonical: Float[Tensor, "n p d"]) -> Float[Tensor, "m d"]:
        """``[N, P, d]`` back to ``[m, d]``."""
        return canonical[self.example, self.position]
