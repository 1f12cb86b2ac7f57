"""Rounding by exact arithmetic: what a storage makes of a number."""

import struct
from fractions import Fraction
from math import copysign, isfinite

FLOATS = {
    "F32": (24, -126, 127, "<f"),
    "F16": (11, -14, 15, "<e"),
    "BF16": (8, -126, 127, "<f"),
}
"""Digits, exponents of the smallest and of the largest normal number; the code."""


def rounded(value: float | Fraction, kind: str) -> float:
    """Round to the nearest number of a type, of two as near to the even one.

    Returns:
        The number, with the sign of what was rounded.

    Raises:
        OverflowError: If that is beyond the largest.
    """
    digits, lowest, highest, _ = FLOATS[kind]
    if value == 0:
        return float(value)
    exact = Fraction(value)
    top = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
    exponent = top if abs(exact) >= Fraction(2) ** top else top - 1
    unit = Fraction(2) ** (max(exponent, lowest) - digits + 1)
    found = round(exact / unit) * unit  # Python rounds fractions half to even
    if abs(found) >= Fraction(2) ** (highest + 1):
        raise OverflowError(value)
    return copysign(float(found), float(exact))


def float_bytes(value: float, kind: str) -> bytes:
    """Give the bytes of a number that the type has."""
    found = struct.pack(FLOATS[kind][3], value)
    return found[2:] if kind == "BF16" else found


def single(value: float) -> float:
    """Round to binary32, as everything is first (R9.2.1)."""
    return rounded(value, "F32")


def row_codes(row: list[float]) -> tuple[list[int], float]:
    """Quantise a row of binary32 numbers (int8.5): codes and scale."""
    scale = max(map(abs, row), default=0.0)
    try:
        factor = rounded(Fraction(127) / Fraction(scale), "F32")
    except (ZeroDivisionError, OverflowError):
        return [0] * len(row), 0.0
    products = (rounded(Fraction(x) * Fraction(factor), "F32") for x in row)
    return [round(Fraction(product)) for product in products], scale


def spelled(value: float) -> float | str:
    """Write a number in JSON, which has none that are not finite."""
    return value if isfinite(value) else str(value)
