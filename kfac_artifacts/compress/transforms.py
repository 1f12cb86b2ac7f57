"""Structures that a factor can be brought into, and how much of it each keeps.

A name is read without importing torch; ``compress/forming.py`` does what it says.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from typing_extensions import override

from kfac_artifacts.errors import SettingsError


class Form(ABC):
    """What of a factor is kept; the storage is chosen apart from it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What ``Recipe.parse`` reads."""


@dataclass(frozen=True)
class Keep(Form):
    """The structure stays as it is."""

    @property
    @override
    def name(self) -> str:
        return "keep"


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


@dataclass(frozen=True)
class Prune(Form):
    """A share of the largest entries, and the diagonal."""

    share: float

    @property
    @override
    def name(self) -> str:
        return f"prune-{percent(self.share)}%"


@dataclass(frozen=True)
class OnlyDiagonal(Form):
    """The diagonal alone."""

    @property
    @override
    def name(self) -> str:
        return "diagonal"


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
