"""What a structure says of the tensors it is made of, before there are any."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from kfac_artifacts.errors import FactorError

Configuration: TypeAlias = Mapping[str, Any]
"""What fixes the shapes of a structure beside its size; JSON (``spec/structures/``)."""
MAX_DIM = 2**31 - 1
ROW = 64
"""Entries that share a scale where they are kept as int8 and have one axis."""


class Role(StrEnum):
    """What the numbers of a field are, which decides how storages may write them."""

    MATRIX = "matrix"
    """Symmetric matrices ``[..., s, s]``: one triangle says all."""

    ENTRIES = "entries"
    """Numbers of like magnitude, ``[n]`` or ``[r, n]``."""

    WEIGHTS = "weights"
    """Few numbers of any magnitude, ``[n]``: eigenvalues, diagonals."""

    BITS = "bits"
    """Bytes of a mask, ``[n]``; every storage writes them as they are."""

    INDICES = "indices"
    """Positions, ``[n]``, int32; every storage writes them as they are."""


@dataclass(frozen=True)
class Field:
    """Shape and role of one tensor of a factor."""

    shape: tuple[int, ...]
    role: Role


def scales_of(shape: tuple[int, ...]) -> int:
    """Number of scales of entries of a shape that are kept as int8."""
    return shape[0] if len(shape) > 1 else -(-shape[0] // ROW)


def check_keys(configuration: Configuration, *keys: str) -> None:
    """Refuse a configuration that has not exactly these keys.

    Args:
        configuration: What a structure is given.
        keys: What it takes.

    Raises:
        FactorError: If there are others.
    """
    if set(configuration) != set(keys):
        wanted = ", ".join(keys) or "nothing"
        raise FactorError(
            f"the configuration must have {wanted}, found {sorted(configuration)}"
        )


def whole_number(value: object, what: str, least: int, most: int) -> int:
    """Check a whole number of a configuration.

    Args:
        value: What should be one.
        what: Its name.
        least: Smallest value allowed.
        most: Largest value allowed.

    Returns:
        The number.

    Raises:
        FactorError: If it is none, or out of range.
    """
    right = isinstance(value, int) and not isinstance(value, bool)
    if right and least <= value <= most:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise FactorError(f"{what} must be a whole number from {least} to {most}")


def true_or_false(value: object, what: str) -> bool:
    """Check a truth value of a configuration.

    Args:
        value: What should be one.
        what: Its name.

    Returns:
        The value.

    Raises:
        FactorError: If it is none.
    """
    if isinstance(value, bool):
        return value
    raise FactorError(f"{what} must be true or false")
