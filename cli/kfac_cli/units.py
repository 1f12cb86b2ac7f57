"""Numbers for people: a few digits, and the unit that keeps them short."""

from collections.abc import Sequence


def size(count: float) -> str:
    """Write a number of bytes: ``12.3 MB``."""
    scaled, unit = _scale(count, ("B", "kB", "MB", "GB"))
    return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.1f} {unit}"


def operations(count: float) -> str:
    """Write a number of floating-point operations: ``1.5 GFLOP``."""
    scaled, prefix = _scale(count, ("", "k", "M", "G", "T", "P"))
    return f"{scaled:.3g} {prefix}FLOP"


def duration(seconds: float) -> str:
    """Write a time: ``1.5 h``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s"


def number(value: float | None) -> float | str:
    """Round to three digits; a dash stands for no number."""
    return "-" if value is None else float(f"{value:.3g}")


def percent(fraction: float | None) -> float | str:
    """Write a fraction in percent, with one digit; a dash stands for none."""
    return "-" if fraction is None else round(100 * fraction, 1)


def _scale(count: float, units: Sequence[str]) -> tuple[float, str]:
    for unit in units[:-1]:
        if count < 1000:
            return count, unit
        count /= 1000
    return count, units[-1]
