"""Pruned factor: the diagonal and the largest entries, with a mask of one bit each.

A coordinate list would need more bytes than the entries that it saves: two indices for
each of them. The mask also has no index that could point outside the matrix.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.eigen import eigenvalue_range
from kfac_artifacts.factors.fields import (
    Configuration,
)
from kfac_artifacts.factors.int8 import Int8Entries, Numbers, floats

CHUNK = 2**22
"""Entries that are spread out at the same time."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Pruned(Factor):
    """Kept entries of the strict upper triangle, rows one after another.

    Attributes:
        mask: Bit ``k % 8`` of byte ``k // 8``, the least first, tells whether entry k
            of the triangle is kept.
        values: The kept entries.
        diagonal_values: The diagonal, always kept.

    Example:
        >>> matrix = torch.tensor([[4.0, 1.0, 0.1], [1.0, 3.0, 0.2], [0.1, 0.2, 2.0]])
        >>> factor = Pruned.of_dense(matrix, kept=1)
        >>> factor.mask  # of the entries (0, 1), (0, 2) and (1, 2) the first
        tensor([1], dtype=torch.uint8)
        >>> factor.to_dense()
        tensor([[4., 1., 0.],
                [1., 3., 0.],
                [0., 0., 2.]])
    """

    name: ClassVar[str] = "pruned"

    mask: UInt8[Tensor, " bytes"]
    values: Float[Tensor, " kept"] | Int8Entries
    diagonal_values: Float[Tensor, " d"]

    @classmethod
    def of_dense(cls, matrix: Float[Tensor, "d d"], kept: int) -> "Pruned":
        """Keep the entries of largest magnitude.

        Args:
            matrix: A symmetric matrix.
            kept: How many entries above the diagonal to keep.

        Returns:
            The factor; of equal magnitudes the first ones are kept.
        """
        above = torch.ones_like(matrix, dtype=torch.bool).triu(1)
        entries = matrix[above]
        order = entries.abs().sort(descending=True, stable=True).indices
        kept_here = torch.zeros_like(entries, dtype=torch.bool)
        kept_here[order[:kept]] = True
        mask = _packed(kept_here)
        return cls(mask, entries[kept_here], matrix.diagonal().clone())

    @classmethod
    @override
    def from_fields(
        cls, fields: Mapping[str, Numbers], configuration: Configuration
    ) -> "Pruned":
        mask: Any = fields["mask"]
        diagonal: Any = fields["diagonal"]
        factor = cls(mask, fields["values"], diagonal)  # type: ignore[arg-type]
        bits = _unpacked(mask)
        entries = factor.dim * (factor.dim - 1) // 2
        if int(bits.sum()) != configuration["kept"] or bool(bits[entries:].any()):
            raise FactorError(
                f"the mask does not mark {configuration['kept']} of {entries} entries"
            )
        return factor

    @classmethod
    @override
    def sum_configuration(
        cls, summands: Sequence[Configuration], dim: int
    ) -> Configuration | None:
        return None

    @property
    @override
    def configuration(self) -> dict[str, Any]:
        values = self.values if isinstance(self.values, Tensor) else self.values.codes
        return {"kept": len(values)}

    @property
    @override
    def dim(self) -> int:
        return len(self.diagonal_values)

    @override
    def fields(self) -> dict[str, Numbers]:
        return {
            "mask": self.mask,
            "values": self.values,
            "diagonal": self.diagonal_values,
        }

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        product = self.diagonal_values[:, None] * x
        for start, rows in self._upper():
            stop = start + len(rows)
            product[start:stop] += rows @ x
            product += rows.mT @ x[start:stop]
        return product

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        upper = torch.cat([rows for _, rows in self._upper()])
        return upper + upper.mT + torch.diag(self.diagonal_values)

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        return self.diagonal_values

    @override
    def eigenvalue_range(self) -> tuple[float, float]:
        return eigenvalue_range(self.to_dense())

    @override
    def add_diagonal(self, amount: float) -> "Pruned":
        return Pruned(self.mask, self.values, self.diagonal_values + amount)

    def _upper(self) -> Iterator[tuple[int, Tensor]]:
        """The strict upper triangle, some rows of it at a time."""
        values, used = floats(self.values), 0
        step = max(1, CHUNK // self.dim)
        for start in range(0, self.dim, step):
            stop = min(start + step, self.dim)
            kept = self._kept(start, stop)
            count = int(kept.sum())
            entries = values.new_zeros(len(kept))
            entries[kept] = values[used : used + count]
            rows = values.new_zeros(stop - start, self.dim)
            rows[torch.ones_like(rows, dtype=torch.bool).triu(start + 1)] = entries
            used += count
            yield start, rows

    def _kept(self, start: int, stop: int) -> Tensor:
        """Which entries of some rows are kept."""
        first, last = (i * (2 * self.dim - i - 1) // 2 for i in (start, stop))
        bits = _unpacked(self.mask[first // 8 : -(-last // 8)])
        return bits[first % 8 :][: last - first]


def _packed(bits: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (padded.to(torch.uint8) << _places(bits)).sum(1, dtype=torch.uint8)


def _unpacked(mask: Tensor) -> Tensor:
    return ((mask[:, None] >> _places(mask)) & 1).flatten().bool()


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
