"""Structures that a factor can be brought into, and how much of it each keeps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.compress.grouping import by_correlation, even_sizes
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import BlockDiagonal, Diagonal, Factor, LowRank, Pruned


class Form(ABC):
    """What of a factor is kept; the storage is chosen apart from it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What ``Recipe.parse`` reads."""

    @abstractmethod
    def apply(self, original: Original) -> Factor:
        """Compress a factor that is not diagonal."""


@dataclass(frozen=True)
class Keep(Form):
    """The structure stays as it is."""

    @property
    @override
    def name(self) -> str:
        return "keep"

    @override
    def apply(self, original: Original) -> Factor:
        return original.factor


@dataclass(frozen=True)
class Blocks(Form):
    """``count`` blocks of coordinates, in their order or grouped by correlation.

    Coordinates of an attention head follow each other: as many blocks as there are
    heads keep every head whole.
    """

    count: int
    correlated: bool = False

    @property
    @override
    def name(self) -> str:
        return f"block-{self.count}" + ("-correlated" if self.correlated else "")

    @override
    def apply(self, original: Original) -> Factor:
        matrix = original.matrix
        sizes = even_sizes(len(matrix), self.count, bias=original.bias)
        order = by_correlation(matrix, sizes) if self.correlated else None
        if order is not None and bool((order.diff() == 1).all()):
            order = None  # it is the order that there was
        return BlockDiagonal.of_dense(matrix, sizes, order)


@dataclass(frozen=True)
class Leading(Form):
    """The leading eigenvectors: a number, a share of all, or a share of the trace.

    Attributes:
        amount: How many, or what share.
        of: ``rank``, ``share`` or ``trace``.
        remainder: Whether the diagonal of the rest is kept, so that no direction goes
            free; the paper's truncated SVD does not.
    """

    amount: float
    of: str
    remainder: bool

    @property
    @override
    def name(self) -> str:
        kind = "low-rank" if self.remainder else "svd"
        if self.of == "rank":
            return f"{kind}-{self.amount:.0f}"
        trace = "-trace" if self.of == "trace" else ""
        return f"{kind}{trace}-{percent(self.amount)}%"

    @override
    def apply(self, original: Original) -> Factor:
        few = self.of == "rank"
        values, vectors = original.leading(int(self.amount)) if few else original.eigen
        definite = original.definite
        kept = LowRank.of_eigen(values, vectors, self._rank(values), definite=definite)
        if not self.remainder:
            return kept
        return kept.completed(original.matrix.diagonal(), definite=definite)

    def _rank(self, values: Tensor) -> int:
        if self.of == "rank":
            return min(int(self.amount), len(values))
        if self.of == "share":
            return max(1, round(self.amount * len(values)))
        sizes = values.abs().double().sort(descending=True).values
        kept = sizes.cumsum(0)
        short = kept < self.amount * sizes.sum() * (1 - 1e-9)
        return min(int(short.sum()) + 1, len(values))


@dataclass(frozen=True)
class Prune(Form):
    """A share of the largest entries, and the diagonal."""

    share: float

    @property
    @override
    def name(self) -> str:
        return f"prune-{percent(self.share)}%"

    @override
    def apply(self, original: Original) -> Factor:
        matrix = original.matrix
        entries = len(matrix) * (len(matrix) - 1) // 2
        return Pruned.of_dense(matrix, round(self.share * entries))


@dataclass(frozen=True)
class OnlyDiagonal(Form):
    """The diagonal alone."""

    @property
    @override
    def name(self) -> str:
        return "diagonal"

    @override
    def apply(self, original: Original) -> Factor:
        return Diagonal(original.matrix.diagonal().clone())


def share(percent: str, what: str) -> float:
    """Read a percentage as a share.

    Args:
        percent: Such as ``25``.
        what: What it is a share of, for the error.

    Returns:
        A number above 0 and up to 1.

    Raises:
        SettingsError: If it is out of range.
    """
    number = float(percent)
    if not 0 < number <= 100:
        raise SettingsError(
            f"{what} must be above 0 % and at most 100 %, not {percent}"
        )
    return number / 100


def percent(share: float) -> str:
    """Write a share as the percentage that ``share`` reads, to ten decimals."""
    return f"{100 * share:.10f}".rstrip("0").rstrip(".")
