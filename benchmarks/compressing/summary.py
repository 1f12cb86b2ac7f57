"""From accuracies of all seeds to rows of a table, and the choice of the best."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, TypeAlias

from cli_session import MODES
from compressing.recipes import DENSE, NONE, origin

Accuracy: TypeAlias = Mapping[str, Mapping[str, float]]
"""Accuracies of a merged model in percent, by mode and task."""
Row: TypeAlias = dict[str, Any]

NEAR = 0.3
"""Points that a recipe may lose and still count as good as uncompressed."""
COLUMNS = {
    "share, %": lambda row: _percent(row, "bytes_share", 2),
    "kB on disk": lambda row: _scaled(row, "bytes_on_disk", 1e3),
    "linearised": lambda row: _spread(row["accuracy"]["linear"]),
    "lost": lambda row: f"{row['points_lost']['linear']:.1f}",
    "ordinary": lambda row: _spread(row["accuracy"]["plain"]),
    "lost ": lambda row: f"{row['points_lost']['plain']:.1f}",
    "error": lambda row: _number(row, "error"),
    "penalty": lambda row: _number(row, "penalty_ratio"),
    "drift": lambda row: _number(row, "predicted_over_true"),
    "escape": lambda row: _number(row, "escape"),
}
COSTS = {
    "penalty time": lambda row: _number(row, "penalty"),
    "step time": lambda row: _number(row, "step"),
    "MB held": lambda row: _scaled(row, "held_bytes", 1e6, 2),
    "MB resident": lambda row: _scaled(row, "resident_bytes", 1e6, 1),
}


def summarise(accuracies: Mapping[str, Sequence[Accuracy]]) -> dict[str, Row]:
    """Take means over tasks and seeds.

    Args:
        accuracies: One for every seed, by recipe; the uncompressed artifact must be
            among them. All have the same seeds.

    Returns:
        Rows by recipe: accuracy with its standard deviation over the seeds (None of a
        single one), by mode, and the points lost against uncompressed.
    """
    means = {
        recipe: {m: [fmean(one[m].values()) for one in found] for m in MODES}
        for recipe, found in accuracies.items()
    }
    return {
        recipe: {
            "recipe": recipe,
            "of": origin(recipe),
            "accuracy": {m: _over_seeds(values) for m, values in of_modes.items()},
            "points_lost": {
                m: fmean(means[DENSE][m]) - fmean(values)
                for m, values in of_modes.items()
            },
        }
        for recipe, of_modes in means.items()
    }


def best(rows: Iterable[Row]) -> Row:
    """Choose the smallest recipe that is as good as uncompressed.

    Args:
        rows: Rows with sizes.

    Returns:
        The row with the smallest share of bytes that loses at most ``NEAR`` points,
        linearised; if there is none, the one that loses least.
    """
    candidates = [row for row in rows if row["recipe"] not in {DENSE, NONE}]
    near = [row for row in candidates if row["points_lost"]["linear"] <= NEAR]
    if near:
        return min(near, key=lambda row: row["bytes_share"])
    return min(candidates, key=lambda row: row["points_lost"]["linear"])


def table(rows: Iterable[Row], columns: Mapping[str, Any]) -> list[str]:
    """Write lines of text, the largest artifact first and no penalty last."""
    ordered = sorted(rows, key=lambda row: -row.get("bytes_share", 0.0))
    cells = [["recipe", "of", *columns]]
    for row in ordered:
        own = [write(row) for write in columns.values()]
        cells.append([row["recipe"], row["of"], *own])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    spread = stdev(values) if len(values) > 1 else None
    return {"mean": fmean(values), "deviation": spread, "seeds": list(values)}


def _spread(accuracy: Mapping[str, Any]) -> str:
    mean, deviation = accuracy["mean"], accuracy["deviation"]
    return f"{mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def _number(row: Row, name: str) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value:.3f}"


def _percent(row: Row, name: str, digits: int) -> str:
    return _scaled(row, name, 1e-2, digits)


def _scaled(row: Row, name: str, unit: float, digits: int = 0) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value / unit:.{digits}f}"
