"""What a cell holds, and the one way from a value to the name of a class.

The same text gives the same class in every kind of file: a number of JSON keeps the
digits that it was written with, so ``1``, ``1.0`` and ``"1"`` are the classes ``1``,
``1.0`` and ``1``, and ``true`` is ``true`` as in a csv.
"""

import unicodedata
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any


class Number(str):
    """A number of JSON, as it was written."""

    __slots__ = ()


STRINGS, NUMBERS, TRUTHS, DATES = "strings", "numbers", "true or false", "dates"
NAMING = (STRINGS, NUMBERS, TRUTHS, DATES)
"""What can be the name of a class."""

_KINDS: tuple[tuple[Any, str], ...] = (  # a bool is an int, a datetime is a date
    (Number, NUMBERS),
    (str, STRINGS),
    (bool, TRUTHS),
    ((int, float, Decimal), NUMBERS),
    (datetime, "times"),
    (date, DATES),
    (bytes, "bytes"),
    (Mapping, "objects"),
    (list, "lists"),
)


def kind_of(value: Any) -> str:
    """Say in the plural what a value is."""
    for types, kind in _KINDS:
        if isinstance(value, types):
            return kind
    return f"values of type {type(value).__name__}"


def is_missing(value: Any) -> bool:
    """Whether there is no value: null, or a NaN among numbers."""
    return value is None or (isinstance(value, float | Decimal) and value != value)  # noqa: PLR0124


def class_name(value: Any) -> str:
    """Name the class that a value stands for, without spaces around it."""
    if isinstance(value, str):
        # nobody can see whether é is written as one character or as two
        return unicodedata.normalize("NFC", value.strip())
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def is_unicode(text: str) -> bool:
    """Whether a text can be written down: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
