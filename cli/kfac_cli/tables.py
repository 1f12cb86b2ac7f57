"""Tables in plain text, which fold on a narrow terminal and nowhere else."""

import io
import shutil
import sys
from collections.abc import Sequence

import click

from kfac_cli.terminal import on_one_line

GAP = 2
NARROWEST = 12
"""Letters of a column of words below which a table is no longer readable."""
ENDLESS = 10**6
"""A width where nothing folds: every row is a line for other programs."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: numbers to the right, words to the left.

    On a terminal long words are folded within their columns. In a file or a pipe a row
    is a line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    least = 0
    for title, *cells in zip(header, *rows, strict=True):
        numbers = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        texts = [on_one_line(str(cell)) for cell in (title, *cells)]
        width = max(map(len, texts))
        least += GAP + (width if numbers else min(width, NARROWEST))
        table.add_column(
            Text(texts[0]),
            justify="right" if numbers else "left",
            no_wrap=numbers,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(on_one_line(str(cell))) for cell in row))
    file = io.StringIO()
    Console(file=file, width=max(least, _width()), color_system=None).print(table)
    for line in file.getvalue().splitlines():
        click.echo(line.rstrip())


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else ENDLESS
