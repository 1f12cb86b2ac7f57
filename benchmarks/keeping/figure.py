"""The figure: what every setting learned against what it forgot."""

from pathlib import Path
from typing import Any

from keeping.sizes import ARMS, LORA
from kfac_artifacts.plotting import COLOURS, MARKERS, new_figure, save_figure

HELD = [arm for arm in ARMS if arm != LORA]
STYLES = {LORA: ("#222222", "*")} | {
    arm: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
    for i, arm in enumerate(HELD)
}
"""Colour and marker of an arm."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw all settings on validation data: one colour for an arm, chosen ones ringed.

    Lines go along strengths at one learning rate.

    Args:
        results: What ``forgetting.py`` writes.
        path: The picture.
    """
    figure = new_figure(path, 8, 6)
    panel = figure.subplots()
    before = results["pretrained"]["choosing"]["general_loss"]
    for arm in (a for a in ARMS if a in results["arms"]):
        colour, marker = STYLES[arm]
        own = [row for row in results["curve"] if row["arm"] == arm]
        for rate in sorted({row["rate"] for row in own}):
            line = sorted(
                (row for row in own if row["rate"] == rate),
                key=lambda row: row["strength"],
            )
            panel.plot(
                [row["general_loss"] - before for row in line],
                [row["task_loss"] for row in line],
                marker + "-",
                color=colour,
                lw=0.8,
                ms=5,
                label=arm if rate == min(row["rate"] for row in own) else None,
            )
        chosen = results["arms"][arm]["validation"]
        panel.plot(
            chosen["general_loss"] - before,
            chosen["task_loss"],
            "o",
            ms=12,
            mfc="none",
            color=colour,
        )
    panel.axvline(0, color="#999999", lw=0.8, ls=":")
    panel.set_xlabel("general loss above that of the pretrained model, nats per token")
    panel.set_ylabel("task loss, nats per token")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    save_figure(figure, path)
