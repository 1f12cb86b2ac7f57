"""Figures: their colours, where they may be written, and the same bytes each time.

matplotlib, an extra, is imported only where something is drawn.
"""

import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format import write_durably
from kfac_artifacts.places import check_file_free

# Okabe and Ito: distinguishable for the colour-blind
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 150
MARK = "drawn by kfac-artifacts"
"""Stands in every figure, so that one of somebody else is not written over."""
FORMATS = {  # with what tells the time of writing
    ".png": {"Software": None, "Comment": MARK},
    ".pdf": {"CreationDate": None, "Creator": MARK, "Producer": None},
    ".svg": {"Date": None, "Description": MARK},
}


def check_plottable(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse a file that no figure can be written to; best before long work.

    Args:
        path: The file; its ending says the format: png, pdf or svg.
        inputs: What is read: the file may not be or lie in one of them.

    Raises:
        SettingsError: If the ending is another one, or matplotlib is not installed.
        PlaceError: If the file cannot be written, is an input, or is no figure of ours.
    """
    if Path(path).suffix not in FORMATS:
        raise SettingsError(
            f"cannot plot to {path}: end its name with {', '.join(FORMATS)}"
        )
    if find_spec("matplotlib") is None:
        raise SettingsError(
            "matplotlib draws figures and is not installed: pip install "
            "'kfac-artifacts[plot]'"
        )
    check_file_free(
        path, inputs=inputs, is_ours=lambda content: MARK.encode() in content
    )


def new_figure(path: str | Path, width: float, height: float) -> Any:
    """Make an empty figure that can be written to a file.

    Args:
        path: The file; its ending says the format: png, pdf or svg.
        width: In inches.
        height: In inches.

    Returns:
        A figure of matplotlib.
    """
    check_plottable(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure, without time and version: same input, same bytes.

    Args:
        figure: What ``new_figure`` made for this file.
        path: The file.
    """
    import matplotlib as mpl  # noqa: PLC0415

    content, suffix = io.BytesIO(), Path(path).suffix
    with mpl.rc_context({"svg.hashsalt": MARK}):  # else identifiers are random
        figure.savefig(content, format=suffix[1:], dpi=DPI, metadata=FORMATS[suffix])
    write_durably(Path(path), content.getvalue())
