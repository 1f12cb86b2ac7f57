"""Pictures of task negation, disentanglement and localisation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfac_artifacts.evaluate.disentanglement import Disentanglement
from kfac_artifacts.evaluate.localisation import Localisation, LocalisedVector
from kfac_artifacts.evaluate.negation_results import Negation
from kfac_artifacts.plotting import COLOURS, MARKERS, new_figure, save_figure

MOST_TICKS = 9


def plot_negation(negation: Negation, path: str | Path) -> None:
    """Draw what is left of every task, and of the control, against α.

    If factors were chosen on validation data, it is those that are drawn, and every
    chosen factor is marked.

    Args:
        negation: What to draw.
        path: The file; its ending says the format: png, pdf or svg.
    """
    drawn = negation.validation or negation.modes
    figure = new_figure(path, 5.6 * len(drawn), 4.6)
    panels = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for panel, scores in zip(panels, drawn, strict=True):
        for i, task in enumerate(scores.tasks):
            look = {"color": COLOURS[i % len(COLOURS)], "markersize": 4}
            marker = MARKERS[i % len(MARKERS)]
            target, control = (
                [100 * value for value in values]
                for values in (task.target, task.control)
            )
            panel.plot(task.alphas, target, label=task.name, marker=marker, **look)
            panel.plot(
                task.alphas,
                control,
                label=f"{negation.control}, without {task.name}",
                linestyle="--",
                marker=marker,
                fillstyle="none",
                **look,
            )
            if negation.validation:
                best = task.best(negation.keep)
                panel.axvline(
                    task.alphas[best or 0], color=look["color"], linestyle=":"
                )
        panel.set_title(f"{negation.model}, {scores.mode}")
        panel.set_xlabel("α, factor of what is subtracted")
        panel.set_ylim(0, 105)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(drawn))
    save_figure(figure, path)


def plot_disentanglement(found: Disentanglement, path: str | Path) -> None:
    """Draw a heat map of ``ξ(α1, α2)`` per mode, all in the same colours.

    Args:
        found: What to draw.
        path: The file; its ending says the format: png, pdf or svg.
    """
    top = max(max(row) for mode in found.modes for row in mode.error)
    figure = new_figure(path, 5.2 * len(found.modes), 4.6)
    panels = figure.subplots(1, len(found.modes), squeeze=False)[0]
    for panel, mode in zip(panels, found.modes, strict=True):
        columns = [
            list(row) for row in zip(*mode.error, strict=True)
        ]  # α1 to the right
        image = panel.imshow(
            columns, origin="lower", vmin=0, vmax=top or 1, cmap="viridis"
        )
        every = -(-len(mode.alphas) // MOST_TICKS)
        places = range(0, len(mode.alphas), every)
        names = [f"{mode.alphas[i]:g}" for i in places]
        panel.set_xticks(places, names)
        panel.set_yticks(places, names)
        panel.set_xlabel(f"α1, factor of {found.tasks[0]}")
        panel.set_ylabel(f"α2, factor of {found.tasks[1]}")
        panel.set_title(f"{found.model}, {mode.mode}")
    figure.colorbar(image, ax=list(panels), label="disentanglement error ξ")
    save_figure(figure, path)


def plot_localisation(found: Localisation, path: str | Path) -> None:
    """Draw histograms of scores in and out of every task, a row of panels per mode.

    Args:
        found: What to draw.
        path: The file; its ending says the format: png, pdf or svg.
    """
    rows = [*found.modes.items()]
    columns = len(rows[0][1])
    figure = new_figure(path, 4.0 * columns, 3.4 * len(rows))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (mode, vectors) in zip(panels, rows, strict=True):
        for panel, each in zip(line, vectors, strict=True):
            _histogram(panel, each)
            panel.set_title(f"{each.name}, {mode}: AUROC {each.auroc:.3f}")
        line[0].set_ylabel("share of the examples")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    save_figure(figure, path)


def _histogram(panel: Any, each: LocalisedVector) -> None:
    edges, *counts = each.histogram()
    for i, (label, values) in enumerate(
        zip(("in task", "out of task"), counts, strict=True)
    ):
        panel.stairs(
            _shares(values), edges, fill=True, alpha=0.6, color=COLOURS[i], label=label
        )
    panel.set_xlabel("squared change of f")


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / sum(counts) for count in counts]
