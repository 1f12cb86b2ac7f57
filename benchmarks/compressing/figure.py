"""The figure: accuracy and the error of the penalty against bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from story import MODES

from compressing.recipes import DENSE, NONE

COLOURS = {"paper": "#ee6677", "ours": "#4477aa"}
LABELS = {"paper": "as in the paper", "ours": "ours"}
LINES = {DENSE: ("#222222", "uncompressed"), NONE: ("#999999", "no penalty")}
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50)
PLACES = ((7, 0), (-7, 0), (0, 8), (0, -8), (7, 7), (7, -7), (-7, 7), (-7, -7))
FARTHER = ((0, 18), (0, -18), (16, 14), (16, -14), (-16, 14), (-16, -14))
"""Where a label may be, in points from its dot; the first that is free is taken."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw all recipes.

    Args:
        results: What ``compression.py`` writes.
        path: The picture.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(16, 5.2), layout="constrained")
    rows = {row["recipe"]: row for row in results["arms"]}
    points = [row for name, row in rows.items() if name not in LINES]
    for panel, mode in zip(panels, MODES, strict=False):
        _accuracy(panel, rows, points, mode)
        panel.set_title(f"merged model, {MODES[mode]}")
    panels[0].set_ylabel("accuracy on held-out texts, %")
    _penalty(panels[2], points)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


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
    panel.set_title("penalty along task vectors")
    panel.set_ylabel("error against uncompressed, %")


def _scatter(
    panel: Any,
    points: Sequence[Any],
    heights: Sequence[float],
    spreads: Sequence[float],
) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    shares = [100 * row["bytes_share"] for row in points]
    for of, colour in COLOURS.items():
        chosen = [i for i, row in enumerate(points) if row["of"] == of]
        panel.errorbar(
            [shares[i] for i in chosen],
            [heights[i] for i in chosen],
            [spreads[i] for i in chosen],
            fmt="o",
            ms=6,
            color=colour,
            ecolor=colour,
            elinewidth=1,
            capsize=2,
            label=LABELS[of],
        )
    panel.set_xscale("log")
    panel.set_xticks(TICKS)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    panel.set_xlim(min(shares) / 1.7, max(shares) * 2.4)
    panel.margins(y=0.12)
    panel.grid(color="#eeeeee")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel("bytes, % of dense float32 matrices")
    _label(panel, points, list(zip(shares, heights, strict=True)))


def _label(
    panel: Any, points: Sequence[Any], places: Sequence[tuple[float, float]]
) -> None:
    """Write names beside dots, where they cover neither dots nor other names."""
    from matplotlib.transforms import Bbox

    figure = panel.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    dots = [panel.transData.transform(place) for place in places]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in dots]
    for row, place in zip(points, places, strict=True):
        found = []
        for dx, dy in (*PLACES, *FARTHER):
            text = panel.annotate(
                row["recipe"],
                place,
                (dx, dy),
                textcoords="offset points",
                ha="center" if not dx else "left" if dx > 0 else "right",
                va="center" if not dy else "bottom" if dy > 0 else "top",
                fontsize=7.5,
                color=COLOURS[row["of"]],
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#aaaaaa"}
                if (dx, dy) in FARTHER
                else None,
            )
            box = text.get_window_extent(renderer).padded(1)
            covered = sum(box.overlaps(other) for other in taken)
            covered += 2 * (not _inside(panel, box))
            found.append((covered, len(found), text, box))
            if not covered:
                break
        _, _, kept, box = min(found, key=lambda one: one[:2])
        for *_, text, _ in found:
            if text is not kept:
                text.remove()
        taken.append(box)


def _inside(panel: Any, box: Any) -> bool:
    frame = panel.get_window_extent()
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
