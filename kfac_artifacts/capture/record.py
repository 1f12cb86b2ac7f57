"""Records: what a block saw of each example, from which everything about it follows.

The per-example gradient of a block for one cotangent is ``M = Σ_p g_p a_pᵀ`` over
positions p, ``[d_out, d_in]``, and the block of the Gramian is ``E[vec M vec Mᵀ]``. A
record keeps a and g in place of M: at most as much as the activations themselves.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture.products import add_gram, add_squares, kernels

CACHED, ROOM = 2**19, 2**26
"""Numbers of matrices that are looked at together, on a CPU and elsewhere."""
LARGE = 2**15
"""Numbers of a matrix that a CPU makes as fast alone as with others."""


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

    @property
    @abstractmethod
    def width(self) -> int:
        """Number d_in of columns of M."""

    @property
    @abstractmethod
    def inputs(self) -> Tensor:
        """The inputs as they count, ``[N, P, d_in]``, or row numbers ``[N, P]``."""

    @abstractmethod
    def with_inputs(self, g: Tensor, inputs: Tensor) -> "Record":
        """A record of the same kind, of other examples of the block."""

    @abstractmethod
    def trimmed(self) -> "Record":
        """The same without columns of M that are zero in all examples, if known."""

    @abstractmethod
    def input_products(self, other: "Record") -> Float[Tensor, "n p m q"]:
        """``a_p · a'_q`` for all positions of examples here and of examples there."""

    @abstractmethod
    def select(self, places: Sequence[int]) -> "Record":
        """The record of some of the examples."""

    @property
    def real_positions(self) -> Float[Tensor, "n p"] | None:
        """1 where a position is real and 0 where it is padded; or None."""
        return None

    @abstractmethod
    def input_kernel(self, A: Tensor) -> Float[Tensor, "n 1 p p"]:
        """``a A aᵀ`` of every example, for a symmetric A.

        Of a diagonal A only the diagonal is given.
        """

    @abstractmethod
    def add_inputs(self, total: Tensor, weights: Float[Tensor, "n p p"]) -> None:
        """Add ``Σ_n a_nᵀ weights_n a_n`` to an upper triangle, weights symmetric.

        Where A is diagonal, its diagonal is added to the diagonal that the total is.
        """

    @abstractmethod
    def apply(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n p d_out"]:
        """``W a_p`` at every position: what a change W of the weight adds there."""

    @abstractmethod
    def matrices(self) -> Float[Tensor, "n k d_out d_in"]:
        """The gradients M themselves."""

    def projections(
        self,
        outputs: Float[Tensor, "o d_out"] | None = None,
        inputs: Float[Tensor, "i d_in"] | None = None,
    ) -> Iterator[Float[Tensor, "m k o i"]]:
        """Turn the gradients M to other coordinates, a few examples at a time.

        Args:
            outputs: Directions of the output, as rows; None for what there is.
            inputs: Directions of the input, as rows.

        Yields:
            ``outputs M inputsᵀ`` of the next examples.
        """
        count = _at_once(self.g, self.g.shape[3] * self.width)
        for start in range(0, self.examples, count):
            few = range(start, min(start + count, self.examples))
            M = _turned(self.select(few).matrices(), inputs)
            yield M if outputs is None else outputs @ M

    def squares(self) -> Float[Tensor, "d_out d_in"]:
        """``Σ M²``, entry by entry, over examples and cotangents."""
        total = self.g.new_zeros(self.g.shape[3], self.width)
        self.add_squares(total)
        return total.mul_(self.g.shape[1])

    def add_squares(
        self,
        total: Float[Tensor, "o i"],
        outputs: Float[Tensor, "o d_out"] | None = None,
        inputs: Float[Tensor, "i d_in"] | None = None,
    ) -> None:
        """Add ``Σ (outputs M inputsᵀ)²`` over examples, entry by entry.

        It is the mean over cotangents; the directions are those of ``projections``.
        """
        for chunk in self.projections(outputs, inputs):
            for M in chunk.flatten(0, 1):
                total.addcmul_(M, M, value=1 / chunk.shape[1])

    def output_kernel(self, B: Float[Tensor, "d d"]) -> Float[Tensor, "n k p p"]:
        """``g B gᵀ`` of every example and cotangent, for a symmetric B."""
        return kernels(self.g, B, self.real_positions)

    def add_outputs(
        self,
        total: Float[Tensor, "d_out d_out"],
        weights: Float[Tensor, "n 1 p p"] | None = None,
    ) -> None:
        """Add ``Σ_n g_nᵀ weights_n g_n`` to an upper triangle, weights symmetric.

        It is the mean over cotangents; without weights what B of KFAC adds up.
        """
        add_gram(total, self.g, self.real_positions, weights)

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
        return self._masked(None)

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

    @property
    @override
    def width(self) -> int:
        return self.x.shape[2] + self.bias

    @property
    @override
    def inputs(self) -> Float[Tensor, "n p d_in"]:
        return self.a

    @override
    def with_inputs(self, g: Tensor, inputs: Tensor) -> "LinearRecord":
        return LinearRecord(g, inputs)

    @override
    def trimmed(self) -> "LinearRecord":
        return self

    @override
    def input_products(self, other: Record) -> Float[Tensor, "n p m q"]:
        return torch.einsum("npi,mqi->npmq", self.a, other.inputs)

    @override
    def select(self, places: Sequence[int]) -> "LinearRecord":
        real = None if self.real is None else self.real[places]
        return LinearRecord(self.g[places], self.x[places], real, self.bias)

    @override
    def projections(
        self,
        outputs: Float[Tensor, "o d_out"] | None = None,
        inputs: Float[Tensor, "i d_in"] | None = None,
    ) -> Iterator[Float[Tensor, "m k o i"]]:
        if self.x.shape[1] > self.width:  # fewer products with M itself
            yield from super().projections(outputs, inputs)
            return
        size = self._turned_size(outputs, inputs)
        if self._is_one_by_one(size):
            for g_one, a_one in self._turned(outputs, inputs):
                yield (g_one.mT @ a_one)[None]
            return
        count = _at_once(self.g, size)
        g, x = _turned(self.g, outputs).mT, self.x.to(self.g.dtype)
        column = self.bias and inputs is None  # of M, which is less than that of x
        a = (x if column else self._along(x, inputs))[:, None]
        for g_few, a_few in zip(g.split(count), a.split(count), strict=True):
            M = g_few @ a_few  # zero where padded, as g is
            yield torch.cat([M, g_few.sum(-1, keepdim=True)], -1) if column else M

    @override
    def add_squares(
        self,
        total: Float[Tensor, "o i"],
        outputs: Float[Tensor, "o d_out"] | None = None,
        inputs: Float[Tensor, "i d_in"] | None = None,
    ) -> None:
        few = self.x.shape[1] <= self.width
        if few and self._is_one_by_one(self._turned_size(outputs, inputs)):
            add_squares(total, self._turned(outputs, inputs))
        else:
            super().add_squares(total, outputs, inputs)

    def _turned_size(self, outputs: Tensor | None, inputs: Tensor | None) -> int:
        """Numbers of one M in other coordinates."""
        rows = self.g.shape[3] if outputs is None else len(outputs)
        return rows * (self.width if inputs is None else len(inputs))

    def _is_one_by_one(self, size: int) -> bool:
        """Whether examples apart cost less than together, with their padding."""
        return self.g.device.type == "cpu" and size >= LARGE

    def _turned(
        self, outputs: Tensor | None, inputs: Tensor | None
    ) -> list[tuple[Float[Tensor, "k _ o"], Float[Tensor, "_ i"]]]:
        """Cotangents and inputs of every example in other coordinates, unpadded."""
        g, x = self.g.transpose(1, 2), self.x.to(self.g.dtype)
        if self.real is None:
            lengths = [x.shape[1]] * self.examples
            g, x = g.flatten(0, 1), x.flatten(0, 1)
        else:
            real = self.real > 0
            lengths = real.sum(1).tolist()
            g, x = g[real], x[real]
        g, a = _turned(g, outputs).transpose(0, 1), self._along(x, inputs)
        return list(zip(g.split(lengths, dim=1), a.split(lengths), strict=True))

    def _masked(self, rows: Tensor | None) -> Tensor:
        """What directions, or none, see of all positions, zero where padded."""
        along = self._along(self.x.to(self.g.dtype), rows)
        return along if self.real is None else along * self.real[..., None]

    def _along(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """What directions see of inputs as they came; without any, the whole inputs."""
        if rows is None:
            return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1) if self.bias else x
        if not self.bias:
            return x @ rows.mT
        return torch.nn.functional.linear(x, rows[:, :-1], rows[:, -1])

    @property
    @override
    def real_positions(self) -> Float[Tensor, "n p"] | None:
        return self.real

    @override
    def input_kernel(self, A: Tensor) -> Float[Tensor, "n 1 p p"]:
        return kernels(self.a[:, None], A, self.real)

    @override
    def add_inputs(self, total: Tensor, weights: Float[Tensor, "n p p"]) -> None:
        add_gram(total, self.a[:, None], self.real, weights[:, None])

    @override
    def apply(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n p d_out"]:
        return self._masked(W)

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

    @property
    @override
    def width(self) -> int:
        return self.rows

    @property
    @override
    def inputs(self) -> Int[Tensor, "n p"]:
        return self.ids

    @override
    def with_inputs(self, g: Tensor, inputs: Tensor) -> "TableRecord":
        return TableRecord(g, inputs, self.rows)

    @override
    def trimmed(self) -> "TableRecord":
        used, numbers = self.ids.unique(return_inverse=True)
        absent = int((used < 0).sum())  # -1 comes first, and stays -1
        return TableRecord(self.g, numbers - absent, max(len(used) - absent, 1))

    @override
    def input_products(self, other: Record) -> Float[Tensor, "n p m q"]:
        mine, theirs = self.ids[:, :, None, None], other.inputs[None, None]
        return ((mine == theirs) & (mine >= 0)).to(self.g.dtype)

    @override
    def select(self, places: Sequence[int]) -> "TableRecord":
        return TableRecord(self.g[places], self.ids[places], self.rows)

    @override
    def input_kernel(self, A: Tensor) -> Float[Tensor, "n 1 p p"]:
        values = A[self.ids.clamp(min=0)].to(self.g.dtype)
        return (self.same * values[..., None])[:, None]

    @override
    def add_inputs(self, total: Tensor, weights: Float[Tensor, "n p p"]) -> None:
        found = (weights * self.same).sum(2)  # zero where there is no row
        found, ids = found.flatten().to(total.dtype), self.ids.clamp(min=0)
        total.index_add_(0, ids.flatten(), found)

    @override
    def apply(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n p d_out"]:
        real = (self.ids >= 0)[..., None]
        return W.mT[self.ids.clamp(min=0)] * real

    @override
    def squares(self) -> Float[Tensor, "d_out d_in"]:
        total = self.g.new_zeros(self.rows + 1, self.g.shape[3])  # -1 is the last one
        for ids, g in zip(self.ids, self.g, strict=True):
            used, numbers = ids.unique(return_inverse=True)
            for each in g:
                M = each.new_zeros(len(used), each.shape[1])
                total[used] += M.index_add_(0, numbers, each).square()
        return total[:-1].mT

    @override
    def matrices(self) -> Float[Tensor, "n k d_out d_in"]:
        index = (self.ids % (self.rows + 1))[:, None, None].expand_as(self.g.mT)
        shape = (*self.g.shape[:2], self.g.shape[3], self.rows + 1)
        return self.g.new_zeros(shape).scatter_add_(3, index, self.g.mT)[..., :-1]


def _turned(x: Tensor, rows: Tensor | None) -> Tensor:
    """What directions, as rows, see of vectors that are last in x."""
    return x if rows is None else x @ rows.mT


def _at_once(g: Tensor, size: int) -> int:
    """Of how many examples matrices of a size fit where they are multiplied fast."""
    room = CACHED if g.device.type == "cpu" else ROOM
    return max(1, room // max(1, g.shape[1] * size))
