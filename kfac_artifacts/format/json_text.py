"""Strict JSON of strangers: bounded before anything is made of it."""

import json
import math
from typing import Any

from kfac_artifacts.errors import FormatError

MAX_JSON_BYTES = 64 * 2**20
MAX_VALUES = 3_000_000
"""Values of a document. A manifest of 64 MiB has two and a half million; 64 MiB of
``[],`` have twenty-two, which would take gigabytes and minutes."""
MAX_DEPTH = 32


def parse_json(content: bytes, where: str) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, nothing deep, nothing infinite.

    Args:
        content: The text, in UTF-8.
        where: What is being read, for the error.

    Returns:
        The parsed value; its strings can be written as UTF-8.

    Raises:
        FormatError: If it is not strict JSON, or has more than ``MAX_VALUES`` values.
    """
    # every value but the first of an array or object has a comma before it
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise FormatError(f"{where} has more than {MAX_VALUES:,} values")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
        _check_value(value, depth=0)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not valid JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_value(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        value.encode()  # refuses half of a surrogate pair
    elif isinstance(value, int | float) and not _is_binary64(value):
        raise ValueError("a number is too large")
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _check_value(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)


def _is_binary64(value: int | float) -> bool:
    """Whether a number, rounded to binary64, is finite."""
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
