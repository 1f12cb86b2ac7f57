"""Running sums: what becomes A, B and the Gramians, in float32 or better.

With n examples and R real positions in all: ``A = (1/R) Σ a aᵀ``, ``B = (1/n) Σ g gᵀ``
with the sum over positions kept (KFAC-expand; Eschenhagen et al. 2023), and
``G = (1/n) Σ v vᵀ`` with ``v`` an example's whole gradient.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kfac_artifacts.factors import Dense, Diagonal


class InputSum:
    """Sum of a aᵀ over real positions; the constant 1 of a bias is the last entry."""

    def __init__(self, dim: int, *, bias: bool, like: Tensor) -> None:
        self._dim, self._bias = dim, bias
        self._sum = _zeros(dim + bias, like)
        self._positions = 0

    def add(
        self, a: Float[Tensor, "n p d"], mask: Bool[Tensor, "n p"] | None = None
    ) -> None:
        """Add a batch."""
        rows = (a.flatten(0, 1) if mask is None else a[mask]).to(self._sum.dtype)
        d = self._dim
        self._sum[:d, :d].addmm_(rows.mT, rows)
        if self._bias:
            self._sum[d, :d] += rows.sum(0)
            self._sum[d, d] += rows.shape[0]
        self._positions += rows.shape[0]

    def mean(self) -> Dense:
        """The factor A; zero if there was no position at all."""
        if self._bias:
            self._sum[:-1, -1] = self._sum[-1, :-1]
        return Dense(_symmetric(self._sum / max(self._positions, 1)))


class RowSum:
    """How often each row of a table is looked up: the diagonal A of its one-hots."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._sum = torch.zeros(rows, dtype=torch.int64, device=device)
        self._positions = 0

    def add(
        self, ids: Int[Tensor, "n p"], mask: Bool[Tensor, "n p"] | None = None
    ) -> None:
        """Add a batch; -1 counts as a position but belongs to no row."""
        real = ids.flatten() if mask is None else ids[mask]
        self._sum += torch.bincount(real[real >= 0], minlength=len(self._sum))
        self._positions += len(real)

    def mean(self) -> Diagonal:
        """The factor A."""
        return Diagonal(self._sum.cpu().to(torch.float64) / self._positions)


class OuterSum:
    """Sum of outer products of rows: g over positions, or whole gradients."""

    def __init__(self, dim: int, like: Tensor) -> None:
        self._sum = _zeros(dim, like)

    def add(self, rows: Float[Tensor, "m d"]) -> None:
        """Add rows."""
        rows = rows.to(self._sum.dtype)
        self._sum.addmm_(rows.mT, rows)

    def mean(self, count: int) -> Dense:
        """The factor: the sum over ``count`` examples (times draws), divided by it."""
        return Dense(_symmetric(self._sum / count))


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """Number type of the sums: float32, or float64 if the network computes in it."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _zeros(dim: int, like: Tensor) -> Tensor:
    return torch.zeros(dim, dim, dtype=accumulation(like.dtype), device=like.device)


def _symmetric(matrix: Tensor) -> Tensor:
    """Remove the asymmetry of rounding, so that half the matrix says it all."""
    return (matrix + matrix.mT) / 2
