"""What of a factor is kept; a name is read without importing torch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from kfac_artifacts.errors import SettingsError

if TYPE_CHECKING:
    from kfac_artifacts.compress.originals import Original
    from kfac_artifacts.factors import Factor
else:
    Original = Factor = object

__all__ = ["NUMBER", "Factor", "Form", "Keep", "Original", "percent", "share", "whole"]

NUMBER = r"(\d+(?:\.\d+)?)"
"""Pattern of a number that may have decimals."""


class Form(ABC):
    """What of a factor is kept; the storage is chosen apart from it."""

    names: ClassVar[str]
    """What may be written for it, for the help."""

    @classmethod
    @abstractmethod
    def parse(cls, name: str) -> "Form | None":
        """Read a name.

        Args:
            name: What people write.

        Returns:
            The form; None if it is no name of this kind.

        Raises:
            SettingsError: If its numbers are out of range.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """What ``parse`` reads."""

    @abstractmethod
    def apply(self, original: Original) -> Factor:
        """Compress a factor that is not diagonal.

        Args:
            original: The factor.

        Returns:
            The factor in its new structure.
        """


@dataclass(frozen=True)
class Keep(Form):
    """The structure stays as it is, whatever it is; a storage alone says so."""

    names: ClassVar[str] = "keep"

    @classmethod
    @override
    def parse(cls, name: str) -> "Keep | None":
        return cls() if name == "keep" else None

    @property
    @override
    def name(self) -> str:
        return "keep"

    @override
    def apply(self, original: Original) -> Factor:
        return original.factor


def whole(text: str, what: str) -> int:
    """Read a number of things.

    Args:
        text: Digits.
        what: What it is the number of, for the error.

    Returns:
        A whole number above 0.

    Raises:
        SettingsError: If it is 0.
    """
    number = int(text)
    if number < 1:
        raise SettingsError(f"{what} must be at least 1, not {number}")
    return number


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
