"""Tables of csv and tsv: every cell is the text that it was written as."""

import csv
import re
from array import array
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.dialect import (
    EXCELS_OWN,
    NAMES,
    find_delimiter,
    is_quoted,
    read_delimiter,
)
from kfac_artifacts.sources.tables.lines import MOST_CHARACTERS, Lines
from kfac_artifacts.sources.tables.table import Table, count

RULE = re.compile(":?-+:?")
USUAL = {".csv": ",", ".tsv": "\t"}


@dataclass
class _Rows:
    """What is read, row by row."""

    path: Path
    delimiter: str
    wanted: Callable[[str], bool]
    header: bool
    names: list[str] = field(default_factory=list)
    kept: dict[int, list[str]] = field(default_factory=dict)
    begins: MutableSequence[int] = field(default_factory=lambda: array("q"))
    blank: int = 0
    uneven: list[tuple[int, int]] = field(default_factory=list)

    def add(self, line: int, row: Sequence[str]) -> None:
        """Take the names of the columns, and then the cells that may be used."""
        if not any(cell.strip() for cell in row):  # as spreadsheets end a table
            self.blank += 1
        elif self.names:
            self._add_cells(line, row)
        else:
            numbers = (str(i + 1) for i in range(len(row)))
            self.names = [name.strip() for name in (row if self.header else numbers)]
            self.kept = {i: [] for i, n in enumerate(self.names) if self.wanted(n)}
            if not self.header:
                self._add_cells(line, row)

    def _add_cells(self, line: int, row: Sequence[str]) -> None:
        if len(row) != len(self.names):
            self.uneven.append((line, len(row)))
            return
        if not self.begins and self.header and _is_rule(row, self.delimiter):
            raise SourceError(
                f"{self.path.name} is a table of Markdown: line {line:,} is a rule, no "
                "row; write it as csv"
            )
        if self.header and row[-1].strip() == self.names[-1]:
            self._check_repeated(line, row)
        for place, cells in self.kept.items():
            cells.append(row[place])
        self.begins.append(line)

    def _check_repeated(self, line: int, row: Sequence[str]) -> None:
        """Refuse a header within the rows, as in files that were put together."""
        cells = [cell.strip().lstrip("\ufeff") for cell in row]
        if cells == self.names and cells[1:]:
            raise SourceError(
                f"{self.path.name}: line {line:,} is the same as the first row; if "
                "that is the header, remove this one; if it is a row, give --no-header"
            )

    def check(self) -> None:
        """Refuse a file without a row, and rows that are not as wide as the first."""
        if not self.names:
            raise SourceError(f"{self.path.name} is empty: it has no row")
        if not self.uneven:
            return
        line, width = self.uneven[0]
        more = f" (and {len(self.uneven) - 1:,} more)" if self.uneven[1:] else ""
        mark = NAMES.get(self.delimiter, repr(self.delimiter))
        advice = (
            "a text with a tab in it must be in quotes, as in every row that needs them"
            if mark == "tab"
            else f"a text with a {mark} in it must be in quotes"
        )
        raise SourceError(
            f"{self.path.name}: line {line:,}{more} has {count(width, 'cell')}, the "
            f"{'header' if self.header else 'first row'} {len(self.names)}; cells are "
            f"divided by {mark} (--delimiter), and {advice}"
        )


def read_delimited(
    path: Path,
    ending: str,
    wanted: Callable[[str], bool],
    *,
    encoding: str,
    delimiter: str | None,
    header: bool,
) -> Table:
    """Read some columns of a csv or tsv.

    Args:
        path: The file.
        ending: ``.csv`` or ``.tsv``.
        wanted: Which columns may be used, by name.
        encoding: Its encoding.
        delimiter: What is between cells; None to find out.
        header: Whether the first row has the names; else they are numbers from 1.

    Returns:
        The table.

    Raises:
        SourceError: If a row has more or fewer cells than the first, or a quote does
            not end.
    """
    usual = USUAL[ending]
    with _long_cells():
        if delimiter is None:
            mark = find_delimiter(path, encoding, usual, wanted)
        else:
            mark = read_delimiter(delimiter)
        quoted = mark != "\t" or is_quoted(path, encoding, mark)
        rows = _Rows(path, mark, wanted, header)
        with Lines(path, encoding) as lines:
            for line, row in _records(path, lines, mark, quoted=quoted):
                if quoted and mark != "\t":
                    _check_quotes(path, line, row)
                rows.add(line, row)
    rows.check()
    return _table(rows, _notes(mark, usual, quoted=quoted))


def _records(
    path: Path, lines: Lines, mark: str, *, quoted: bool
) -> Iterator[tuple[int, list[str]]]:
    """Read rows with the line at which each begins."""
    reader = csv.reader(
        lines,
        delimiter=mark,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        begin = lines.number + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise SourceError(
                f"{path.name}: a quote in the row that begins in line {begin:,} does "
                f"not end as it must by line {lines.number:,}: around a text, quotes "
                "open and close a cell, and inside it they are doubled"
            ) from error
        if row is None:
            return
        if begin > 1 or not EXCELS_OWN.fullmatch(mark.join(row)):
            yield begin, row


def _is_rule(row: Sequence[str], mark: str) -> bool:
    cells = [cell.strip() for cell in row if cell.strip()]
    return mark == "|" and all(RULE.fullmatch(cell) for cell in cells)


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(MOST_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_quotes(path: Path, line: int, row: Sequence[str]) -> None:
    """Refuse ``a, "b"``: by the rules of csv the quotes would be part of the text."""
    for cell in row:
        bare = cell.strip()
        if cell[:1] == " " and len(bare) > 1 and bare[0] == bare[-1] == '"':
            raise SourceError(
                f"{path.name}: in line {line:,} there is a space between the delimiter "
                "and a quote, so the quotes would be taken as text; remove the space"
            )


def _notes(mark: str, usual: str, *, quoted: bool) -> tuple[str, ...]:
    notes = [f"divided by {NAMES.get(mark, repr(mark))}"] if mark != usual else []
    if mark == "\t" and quoted:
        notes.append("quotes taken as those around cells")
    return tuple(notes)


def _table(rows: _Rows, notes: tuple[str, ...]) -> Table:
    columns = {rows.names[place]: cells for place, cells in rows.kept.items()}
    return Table(
        name=rows.path.name,
        names=tuple(rows.names),
        columns=columns,
        numbers=rows.begins,
        unit="line",
        blank=rows.blank,
        notes=notes,
        # a first row that is data has classes in it that come again
        headed=rows.header,
        named=not rows.header or any(n not in cells for n, cells in columns.items()),
    )
