"""Records: what a block saw of each example, from which everything about it follows.

The per-example gradient of a block for one cotangent is ``M = Σ_p g_p a_pᵀ`` over
positions p, ``[d_out, d_in]``, and the block of the Gramian is ``E[vec M vec Mᵀ]``. A
record keeps a and g in place of M: at most as much as the activations themselves.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.estimate.passes import Visit
from kfac_artifacts.estimate.sites import LinearSite, Site, TableSite
from kfac_artifacts.estimate.sums import accumulation


@dataclass(frozen=True, eq=False)
class Record(ABC):
    """A block on N examples with K cotangents each and P positions.

    Attributes:
        g: Cotangents of the block's output, ``[N, K, P, d_out]``; zero where padded.
    """

    g: Float[Tensor, "n k p d_out"]

    @property
    def examples(self) -> int:
        """Number N of examples."""
        return self.g.shape[0]

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory held, in bytes."""

    @abstractmethod
    def select(self, places: Sequence[int]) -> "Record":
        """The record of some of the examples."""

    @abstractmethod
    def input_kernel(self, A: Tensor) -> Float[Tensor, "n 1 p p"]:
        """``a A aᵀ`` of every example; of a diagonal A only the diagonal is given."""

    @abstractmethod
    def pull_in(self, weights: Float[Tensor, "n p p"]) -> Tensor:
        """``Σ_n a_nᵀ weights_n a_n``, or its diagonal where A is one."""

    @abstractmethod
    def square_in(self, weights: Float[Tensor, "n p p"]) -> Float[Tensor, ""]:
        """``Σ_n ‖a_nᵀ weights_n a_n‖²``, or of the diagonals where A is one."""

    @abstractmethod
    def apply(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n p d_out"]:
        """``W a_p`` at every position: what a change W of the weight adds there."""

    @abstractmethod
    def matrices(self) -> Float[Tensor, "n k d_out d_in"]:
        """The gradients M themselves."""

    def output_kernel(self, B: Float[Tensor, "d d"]) -> Float[Tensor, "n k p p"]:
        """``g B gᵀ`` of every example and cotangent."""
        return (self.g @ B) @ self.g.mT

    def pull_out(
        self, weights: Float[Tensor, "n 1 p p"]
    ) -> Float[Tensor, "d_out d_out"]:
        """``Σ_n g_nᵀ weights_n g_n``, the mean over cotangents."""
        rows = self.g.flatten(0, 2)
        return rows.mT @ (weights @ self.g).flatten(0, 2) / self.g.shape[1]

    def square_out(self, weights: Float[Tensor, "n 1 p p"]) -> Float[Tensor, ""]:
        """``Σ_n ‖g_nᵀ weights_n g_n‖²``, of the mean over cotangents."""
        draws, positions, width = self.g.shape[1:]
        if draws == 1 and positions <= width:
            product = weights @ (self.g @ self.g.mT)
            return (product * product.mT).sum()
        weighted = weights @ self.g
        squares = [
            (g.flatten(0, 1).mT @ w.flatten(0, 1)).pow(2).sum()
            for g, w in zip(self.g, weighted, strict=True)
        ]
        return torch.stack(squares).sum() / draws**2

    def inner(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n k"]:
        """``⟨M, W⟩``: how a change W of the weight moves f along each cotangent."""
        return torch.einsum("nkpo,npo->nk", self.g, self.apply(W))


@final
@dataclass(frozen=True, eq=False)
class LinearRecord(Record):
    """A linear map; with a bias the constant 1 is the last entry of a.

    Attributes:
        x: Inputs, ``[N, P, d]``, as they came.
        real: 1 where a position is real and 0 where it is padded, ``[N, P]``; or None.
        bias: Whether there is a bias.
    """

    x: Float[Tensor, "n p d"]
    real: Float[Tensor, "n p"] | None = None
    bias: bool = False

    @property
    def a(self) -> Float[Tensor, "n p d_in"]:
        """Inputs, zero where padded, with the constant of a bias."""
        a = self.x.to(self.g.dtype)
        if self.bias:
            a = torch.cat([a, a.new_ones(*a.shape[:2], 1)], dim=2)
        return a if self.real is None else a * self.real[..., None]

    def compact(self) -> "LinearRecord":
        """The same with at most d_in positions: those of the identity in place of a."""
        d_in = self.x.shape[2] + self.bias
        if self.x.shape[1] <= d_in:
            return self
        unit = torch.eye(d_in, dtype=self.g.dtype, device=self.g.device)
        return LinearRecord(self.matrices().mT, unit.expand(self.examples, -1, -1))

    @property
    @override
    def nbytes(self) -> int:
        return self.x.nbytes + self.g.nbytes

    @override
    def select(self, places: Sequence[int]) -> "LinearRecord":
        real = None if self.real is None else self.real[places]
        return LinearRecord(self.g[places], self.x[places], real, self.bias)

    @override
    def input_kernel(self, A: Tensor) -> Float[Tensor, "n 1 p p"]:
        a = self.a
        return (a @ A @ a.mT)[:, None]

    @override
    def pull_in(self, weights: Float[Tensor, "n p p"]) -> Float[Tensor, "d d"]:
        a = self.a
        return a.flatten(0, 1).mT @ (weights @ a).flatten(0, 1)

    @override
    def square_in(self, weights: Float[Tensor, "n p p"]) -> Float[Tensor, ""]:
        a = self.a
        product = weights @ (a @ a.mT)
        return (product * product.mT).sum()

    @override
    def apply(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n p d_out"]:
        return self.a @ W.mT

    @override
    def matrices(self) -> Float[Tensor, "n k d_out d_in"]:
        return self.g.mT @ self.a[:, None]


@final
@dataclass(frozen=True, eq=False)
class TableRecord(Record):
    """A table of vectors: the inputs are one-hot, kept as row numbers.

    Attributes:
        ids: Row numbers, ``[N, P]``; -1 for a row without gradient.
        rows: Number of rows of the table.
    """

    ids: Int[Tensor, "n p"]
    rows: int

    @property
    @override
    def nbytes(self) -> int:
        return self.ids.nbytes + self.g.nbytes

    @property
    def same(self) -> Float[Tensor, "n p p"]:
        """``a aᵀ``: 1 where two positions read the same row."""
        equal = self.ids[:, :, None] == self.ids[:, None, :]
        return (equal & (self.ids >= 0)[:, :, None]).to(self.g.dtype)

    @override
    def select(self, places: Sequence[int]) -> "TableRecord":
        return TableRecord(self.g[places], self.ids[places], self.rows)

    @override
    def input_kernel(self, A: Tensor) -> Float[Tensor, "n 1 p p"]:
        values = A[self.ids.clamp(min=0)].to(self.g.dtype)
        return (self.same * values[..., None])[:, None]

    @override
    def pull_in(self, weights: Float[Tensor, "n p p"]) -> Float[Tensor, " rows"]:
        found = (weights * self.same).sum(2)
        values = found.new_zeros(self.rows + 1)
        values.index_add_(0, (self.ids % (self.rows + 1)).flatten(), found.flatten())
        return values[:-1]

    @override
    def square_in(self, weights: Float[Tensor, "n p p"]) -> Float[Tensor, ""]:
        same = self.same
        found = (weights * same).sum(2, keepdim=True)
        return (found.mT @ same @ found).sum()

    @override
    def apply(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n p d_out"]:
        real = (self.ids >= 0)[..., None]
        return W.mT[self.ids.clamp(min=0)] * real

    @override
    def matrices(self) -> Float[Tensor, "n k d_out d_in"]:
        index = (self.ids % (self.rows + 1))[:, None, None].expand_as(self.g.mT)
        shape = (*self.g.shape[:2], self.g.shape[3], self.rows + 1)
        return self.g.new_zeros(shape).scatter_add_(3, index, self.g.mT)[..., :-1]


class Recorder:
    """Listens to a pass, and makes a record of every block of its sites.

    A Gramian block is recorded as a linear map of one position whose input is 1: its M
    is the whole gradient, ``[D, 1]``.
    """

    keeps_inputs = False
    muted = False

    def __init__(self) -> None:
        self._visits: dict[Site, list[Visit]] = defaultdict(list)
        self._g: dict[tuple[Site, int], list[Tensor]] = defaultdict(list)
        self._whole: dict[str, list[Tensor]] = defaultdict(list)
        self._sum: dict[str, Tensor] = {}

    def on_input(self, visit: Visit) -> None:
        """Keep the input."""
        if not visit.site.whole:
            kept = Visit(visit.site, visit.call, visit.x, visit.a, visit.mask)
            self._visits[visit.site].append(kept)

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Keep the cotangent, or the gradient of a Gramian block."""
        site = visit.site
        if not site.whole:
            self._g[site, visit.call].append(g.detach().to(accumulation(g.dtype)))
            return
        found = site.gradients(visit.a, g)
        for role, name in site.parameters.items():
            before = self._sum.get(name)
            value = found[role].detach().to(accumulation(g.dtype))
            self._sum[name] = value if before is None else before + value

    def end_of_forward(self) -> None:
        """Nothing to do."""

    def end_of_backward(self) -> None:
        """Close the gradients of one cotangent: all calls of a site have come."""
        for name, value in self._sum.items():
            self._whole[name].append(value)
        self._sum.clear()

    def take(self) -> dict[str, Record]:
        """Give the records of the batch by block, and forget them."""
        records: dict[str, Record] = {}
        for site, visits in self._visits.items():
            g = [torch.stack(self._g[site, visit.call], dim=1) for visit in visits]
            records[site.name] = _record(site, visits, torch.cat(g, dim=2))
        for name, values in self._whole.items():
            gradient = torch.stack(values, dim=1)[:, :, None]
            one = gradient.new_ones(len(gradient), 1, 1)
            records[name] = LinearRecord(gradient, one)
        self._visits.clear()
        self._g.clear()
        self._whole.clear()
        return records


def _record(site: Site, visits: list[Visit], g: Tensor) -> Record:
    """Join the calls of a site: they add up like positions."""
    real = None
    if any(visit.mask is not None for visit in visits):
        real = torch.cat([_real(visit).to(g.dtype) for visit in visits], dim=1)
        g = g * real[:, None, :, None]
    a = torch.cat([visit.a for visit in visits], dim=1) if visits[1:] else visits[0].a
    if isinstance(site, LinearSite):
        return LinearRecord(g, a, real, bias="bias" in site.parameters).compact()
    if real is not None:
        a = a.masked_fill(real == 0, -1)
    rows = site.rows if isinstance(site, TableSite) else a.shape[1]
    return TableRecord(g, a, rows)


def _real(visit: Visit) -> Tensor:
    """Which positions are real, ``[N, P]``."""
    return visit.a.new_ones(visit.a.shape[:2]) if visit.mask is None else visit.mask
