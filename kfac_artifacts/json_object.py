"""Reading JSON objects field by field: right type, nothing missing, nothing unknown."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kfac_artifacts.errors import FormatError
from kfac_artifacts.names import WHAT_NAMES_ARE, is_name

T = TypeVar("T")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_NUMBER = sys.float_info.max


class JsonObject:
    """One JSON object being read; ``where`` names it in errors."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where} must be an object, found {_kind(value)}")
        self._left: dict[str, Any] = dict(value)
        self.where = where

    def take(self, key: str, kind: type[T]) -> T:
        """Take a field that must be there.

        Args:
            key: Name of the field.
            kind: Its type; ``int`` does not take true and false.

        Returns:
            The value.

        Raises:
            FormatError: If it is missing or of another type.
        """
        if key not in self._left:
            raise FormatError(f"{self.where} lacks {key!r}")
        value = self._left.pop(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise FormatError(
                f"{self.where}.{key} must be {_NAMES.get(kind, 'a number')}, "
                f"found {_kind(value)}"
            )
        return value

    def maybe(self, key: str, kind: type[T]) -> T | None:
        """Take a field that must be there but may be null."""
        if self._left.get(key, 0) is None:
            return self._left.pop(key)
        return self.take(key, kind)

    def count(self, key: str, *, least: int = 1) -> int:
        """Take a whole number of at least ``least`` and less than 2**53."""
        value = self.take(key, int)
        self.require(least <= value < 2**53, f"{key} must be from {least} to 2**53 - 1")
        return value

    def optional_count(self, key: str) -> int | None:
        """Take a whole number from 0 if it is there; it may not be null."""
        return self.count(key, least=0) if key in self._left else None

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Take a field if it is there; it may not be null."""
        return self.take(key, kind) if key in self._left else None

    def number(self, key: str, *, signed: bool = False) -> float:
        """Take a finite number; one that is not negative, unless it may be."""
        value = self.take(key, object)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FormatError(
                f"{self.where}.{key} must be a number, found {_kind(value)}"
            )
        within = (-MAX_NUMBER if signed else 0) <= value <= MAX_NUMBER
        self.require(
            within, f"{key} must be finite{'' if signed else ' and not negative'}"
        )
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """Take a number that is not negative if it is there; it may not be null."""
        return self.number(key) if key in self._left else None

    def name(self, key: str) -> str:
        """Take a name: 1 to 512 printable characters."""
        return check_name(self.take(key, str), f"{self.where}.{key}")

    def maybe_name(self, key: str) -> str | None:
        """Take a name that must be there but may be null."""
        value = self.maybe(key, str)
        return None if value is None else check_name(value, f"{self.where}.{key}")

    def sha256(self, key: str) -> str:
        """Take a sha256 in lower-case hexadecimal."""
        value = self.take(key, str)
        self.require(SHA256.fullmatch(value) is not None, f"{key} must be a sha256")
        return value

    def each(self, key: str, read: Callable[[object, str], T]) -> dict[str, T]:
        """Take an object whose keys are names, and read every value of it."""
        found = self.take(key, dict)
        where = f"{self.where}.{key}"
        return {
            check_name(name, where): read(value, f"{where}[{name!r}]")
            for name, value in found.items()
        }

    def list_of(self, key: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
        """Take an array and read every item of it."""
        found = self.take(key, list)
        where = f"{self.where}.{key}"
        return tuple(read(value, f"{where}[{i}]") for i, value in enumerate(found))

    def require(self, condition: bool, message: str) -> None:
        """Refuse the object unless a condition holds."""
        require(condition, f"{self.where}: {message}")

    def finish(self, *, extensible: bool = False) -> None:
        """Refuse what is left over.

        Args:
            extensible: Whether unknown fields may be ignored if they are objects with
                ``"must_understand": false``; never where they could change decoding.

        Raises:
            FormatError: If a field is unknown.
        """
        for key in self._unknown(extensible):
            raise FormatError(
                f"{self.where} has an unknown field {key!r}; it may need a newer "
                "version of kfac-artifacts"
            )

    def _unknown(self, extensible: bool) -> Iterator[str]:
        for key, value in self._left.items():
            optional = isinstance(value, dict) and value.get("must_understand") is False
            if not (extensible and optional):
                yield key


def require(condition: bool, message: str) -> None:
    """Refuse what was read unless a condition holds."""
    if not condition:
        raise FormatError(message)


def positive(value: object, where: str) -> float:
    """Check a finite number above 0.

    Args:
        value: Parsed JSON.
        where: What it is, for the error.

    Returns:
        The number.

    Raises:
        FormatError: If it is another.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"{where} must be a number, found {_kind(value)}")
    require(0 < value <= MAX_NUMBER, f"{where} must be finite and above 0")
    return float(value)


def check_name(value: object, where: str) -> str:
    """Check a name: 1 to 512 printable characters.

    Args:
        value: What should be a name.
        where: Where it was found, for the error.

    Returns:
        The name.

    Raises:
        FormatError: If it is no such string.
    """
    if isinstance(value, str) and is_name(value):
        return value
    raise FormatError(f"{where} must be {WHAT_NAMES_ARE}")


def dimension(value: object, where: str) -> int:
    """Check the size of an axis: a whole number from 1 to 2**31 - 1.

    Args:
        value: What should be one.
        where: Where it was found, for the error.

    Returns:
        The number.

    Raises:
        FormatError: If it is no such number.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
        return value
    raise FormatError(f"{where} must be a whole number from 1 to 2**31 - 1")


_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "an array",
    bool: "true or false",
}


def _kind(value: object) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)
