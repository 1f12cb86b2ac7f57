"""A picture of an evaluation: accuracies at one α, or along a sweep."""

from pathlib import Path
from typing import Any

from kfac_artifacts.evaluate.results import Evaluation, ModeScores
from kfac_artifacts.plotting import COLOURS, MARKERS, new_figure, save_figure


def plot_evaluation(evaluation: Evaluation, path: str | Path) -> None:
    """Draw an evaluation, one panel per mode: bars for one α, lines for a sweep.

    Of a factor that was chosen on validation data, it draws what was reported with it.

    Args:
        evaluation: What to draw.
        path: The file; its ending says the format: png, pdf or svg.
    """
    count = len(evaluation.modes)
    figure = new_figure(path, 5.6 * count, 4.6)
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    for panel, scores in zip(panels, evaluation.modes, strict=True):
        draw = _bars if len(scores.alphas) == 1 else _lines
        draw(panel, scores)
        panel.set_title(f"{evaluation.model}, {scores.mode}")
        panel.set_ylim(0, 105)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    panels[0].set_ylabel("accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 * count)
    save_figure(figure, path)


def _bars(panel: Any, scores: ModeScores) -> None:
    alpha = scores.alphas[0]
    groups = {
        "pretrained": [*(t.pretrained for t in scores.tasks), scores.pretrained],
        "individual": [*(t.individual for t in scores.tasks), scores.individual],
        f"merged, α = {alpha:g}": [
            *(t.merged[0] for t in scores.tasks),
            scores.absolute[0],
        ],
    }
    width = 0.8 / len(groups)
    for i, (label, values) in enumerate(groups.items()):
        places = [place + (i - 1) * width for place in range(len(values))]
        heights = [100 * value for value in values]
        bars = panel.bar(places, heights, width, label=label, color=COLOURS[i])
        panel.bar_label(bars, fmt="%.0f", fontsize="x-small")
    names = [*(task.name for task in scores.tasks), "mean"]
    panel.set_xticks(range(len(names)), names, rotation=20, ha="right")
    panel.set_xlabel("task")


def _lines(panel: Any, scores: ModeScores) -> None:
    for i, task in enumerate(scores.tasks):
        panel.plot(
            scores.alphas,
            [100 * value for value in task.merged],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            linewidth=1.2,
            label=task.name,
        )
    mean = [100 * value for value in scores.absolute]
    panel.plot(scores.alphas, mean, color="black", linewidth=2.5, label="mean")
    panel.axhline(
        100 * scores.individual, color="grey", linestyle="--", label="individual, mean"
    )
    panel.axhline(
        100 * scores.pretrained, color="grey", linestyle=":", label="pretrained, mean"
    )
    panel.set_xlabel("α, factor of the sum of the task vectors")
