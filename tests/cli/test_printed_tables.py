"""Tables: a row is a line for programs, and folds within its columns for people."""

import contextlib
import io
import os
import shutil

import pytest

from kfac_cli.tables import print_table

LONG = "encoder.layer.11.attention.output.dense"
HEADER = ["module", "block", "bytes"]
ROWS = [[LONG * 4, "kronecker", 12], ["[red]a[/red]", "full \x1b[31m\n", 3456789]]


class Stream(io.StringIO):
    """A pipe, or a terminal of some width."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.width = width

    def isatty(self) -> bool:
        return self.width is not None


def printed(
    monkeypatch: pytest.MonkeyPatch, width: int | None, rows: list[list[object]]
) -> list[str]:
    size = os.terminal_size((width or 80, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: size)
    with contextlib.redirect_stdout(Stream(width)) as stream:
        print_table(HEADER, rows)
    return stream.getvalue().split("\n")[:-1]


def test_in_a_pipe_a_row_is_a_line_and_nothing_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert printed(monkeypatch, None, ROWS) == [
        f"{'module':156}  {'block':15}    bytes",
        f"{LONG * 4}  {'kronecker':15}       12",
        f"{'[red]a[/red]':156}  full \\x1b[31m\\n  3456789",
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_on_a_terminal_words_fold_and_numbers_do_not(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = printed(monkeypatch, width, ROWS)
    assert max(map(len, lines)) <= width
    assert any(line.endswith("  3456789") for line in lines)
    assert "\x1b" not in "".join(lines)
    column = lines[0].index("block")
    names = "".join(line[:column].strip() for line in lines[1:])
    assert names == f"{LONG * 4}[red]a[/red]"


def test_on_a_terminal_that_is_far_too_narrow_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = printed(monkeypatch, 5, ROWS)
    assert any(line.endswith("3456789") for line in lines)
    names = "".join(line[: lines[0].index("block")].strip() for line in lines[1:])
    assert names == f"{LONG * 4}[red]a[/red]"


def test_a_table_without_rows_is_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, None, []) == ["module  block  bytes"]
