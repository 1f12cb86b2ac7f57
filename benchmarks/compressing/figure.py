"""The figure: accuracy and the error of the penalty against bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli_session import MODES
from compressing.recipes import DENSE, NONE
from kfac_artifacts import plotting
from kfac_artifacts.plotting import new_figure, save_figure

COLOURS = {"paper": plotting.COLOURS[5], "ours": plotting.COLOURS[0]}
LABELS = {"paper": "as in the paper", "ours": "ours"}
LINES = {DENSE: ("#222222", "uncompressed"), NONE: ("#999999", "no penalty")}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
GAP = 0.026
"""Between names, as a share of the width."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw all recipes, in panels that share the axis of bytes.

    Args:
        results: What ``compression.py`` writes.
        path: The picture.
    """
    figure = new_figure(path, 8.5, 10.5)
    panels = figure.subplots(3, 1, sharex=True)
    rows = {row["recipe"]: row for row in results["arms"]}
    points = [row for name, row in rows.items() if name not in LINES]
    for panel, mode in zip(panels, MODES, strict=False):
        _accuracy(panel, rows, points, mode)
        panel.set_ylabel(f"accuracy, %\n{MODES[mode]}")
    _penalty(panels[2], points)
    _bytes(panels, [100 * row["bytes_share"] for row in points])
    _names(panels[0], points)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center")
    save_figure(figure, path)


def _accuracy(
    panel: Any, rows: dict[str, Any], points: Sequence[Any], mode: str
) -> None:
    for name, (colour, label) in LINES.items():
        if name in rows:
            height = rows[name]["accuracy"][mode]
            panel.axhline(height["mean"], color=colour, lw=1, ls="--", label=label)
            spread = height["deviation"] or 0.0
            low, high = height["mean"] - spread, height["mean"] + spread
            panel.axhspan(low, high, color=colour, alpha=0.12, lw=0)
    heights = [row["accuracy"][mode]["mean"] for row in points]
    spreads = [row["accuracy"][mode]["deviation"] or 0.0 for row in points]
    _scatter(panel, points, heights, spreads)


def _penalty(panel: Any, points: Sequence[Any]) -> None:
    measured = [row for row in points if row.get("penalty_ratio") is not None]
    heights = [100 * abs(row["penalty_ratio"] - 1) for row in measured]
    panel.set_yscale("log")
    _scatter(panel, measured, heights, [0.0] * len(measured))
    panel.set_ylabel("error of the penalty, %\nalong unpenalised task vectors")


def _scatter(
    panel: Any,
    points: Sequence[Any],
    heights: Sequence[float],
    spreads: Sequence[float],
) -> None:
    for of, colour in COLOURS.items():
        chosen = [i for i, row in enumerate(points) if row["of"] == of]
        panel.errorbar(
            [100 * points[i]["bytes_share"] for i in chosen],
            [heights[i] for i in chosen],
            [spreads[i] for i in chosen],
            fmt="o",
            color=colour,
            capsize=2,
            label=LABELS[of],
        )


def _bytes(panels: Sequence[Any], shares: Sequence[float]) -> None:
    """Style the axis of bytes; a thin line leads from every name to its dots."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    for panel in panels:
        panel.set_xscale("log")
        panel.set_xticks(TICKS)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.set_xlim(min(shares) / 1.4, max(shares) * 1.4)
        panel.margins(y=0.1)
        panel.grid(axis="y", color="#eeeeee")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        for share in shares:
            panel.axvline(share, color="#cccccc", lw=0.5, zorder=0)
    panels[-1].set_xlabel("bytes of all factors, % of dense float32 matrices")


def _names(panel: Any, points: Sequence[Any]) -> None:
    """Write the names above a panel, apart from each other."""
    ordered = sorted(points, key=lambda row: row["bytes_share"])
    low, high = (math.log(x / 100) for x in panel.get_xlim())
    wanted = [(math.log(row["bytes_share"]) - low) / (high - low) for row in ordered]
    for row, place in zip(ordered, spread(wanted, GAP), strict=True):
        colour = COLOURS[row["of"]]
        panel.annotate(
            row["recipe"],
            (100 * row["bytes_share"], 1),
            (place, 1.08),
            xycoords=("data", "axes fraction"),
            textcoords="axes fraction",
            rotation=60,
            rotation_mode="anchor",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "#bbbbbb", "shrinkA": 0},
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move places apart, as little as it takes and in their order.

    Args:
        wanted: Places, ascending.
        gap: The least distance.

    Returns:
        Places at least that far from each other: clusters keep their means.
    """
    clusters: list[tuple[float, int]] = []  # the middle, and how many
    for place in wanted:
        middle, count = place, 1
        while clusters:
            before, size = clusters[-1]
            if middle - before >= gap * (count + size) / 2:
                break
            clusters.pop()
            middle = (before * size + middle * count) / (size + count)
            count += size
        clusters.append((middle, count))
    return [
        middle + gap * (i - (count - 1) / 2)
        for middle, count in clusters
        for i in range(count)
    ]
