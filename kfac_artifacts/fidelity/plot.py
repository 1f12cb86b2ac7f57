"""A picture of fidelity: predicted beside true drifts, and errors by module."""

from pathlib import Path
from typing import Any

from kfac_artifacts.fidelity.results import Fidelity
from kfac_artifacts.plotting import COLOURS, MARKERS, new_figure, save_figure


def plot_fidelity(found: Fidelity, path: str | Path) -> None:
    """Draw predicted over true drifts, and errors and cosines by module.

    Args:
        found: What to draw.
        path: The file; its ending says the format: png, pdf or svg.
    """
    figure = new_figure(path, 11.2, 4.8)
    drifts, modules = figure.subplots(1, 2)
    _drifts(drifts, found)
    _modules(modules, found)
    data = found.held_out.data
    figure.suptitle(f"{found.estimator} on {data.examples} examples of {data.id}")
    save_figure(figure, path)


def _drifts(panel: Any, found: Fidelity) -> None:
    """A small mark for a direction in one module, a large one for all together."""
    seen = []
    for i, (kind, directions) in enumerate(found.directions.items()):
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        small = [d for m in found.modules for d in m.drifts.get(kind, [])]
        groups = ((small, 8, 0.4, None), (directions.total, 60, 1.0, kind))
        for drifts, size, alpha, label in groups:
            pairs = [
                (d.true, d.predicted) for d in drifts if min(d.true, d.predicted) > 0
            ]
            seen += [value for pair in pairs for value in pair]
            x, y = zip(*pairs, strict=True) if pairs else ((), ())
            edge = "white" if label else "none"
            panel.scatter(x, y, size, alpha=alpha, label=label, edgecolor=edge, **style)
    if seen:
        ends = (min(seen), max(seen))
        panel.plot(ends, ends, color="grey", linestyle="--", linewidth=1)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.legend(title="all modules together")
    panel.set_xlabel("true drift")
    panel.set_ylabel("predicted drift")
    panel.grid(alpha=0.3)


def _modules(panel: Any, found: Fidelity) -> None:
    for i, (label, of) in enumerate(
        (("relative error", "error"), ("cosine", "cosine"))
    ):
        values = [getattr(module.comparison, of) for module in found.modules]
        known = [(place, v) for place, v in enumerate(values) if v is not None]
        x, y = zip(*known, strict=True) if known else ((), ())
        panel.plot(x, y, MARKERS[i], color=COLOURS[i], markersize=4, label=label)
    if found.total.error is not None:
        panel.axhline(
            found.total.error, color=COLOURS[0], linestyle="--", label="error in total"
        )
    panel.set_ylim(bottom=0)
    panel.set_xlabel("module, in the order of the artifact")
    panel.legend()
    panel.grid(alpha=0.3)
