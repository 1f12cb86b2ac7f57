"""How a delimited file was written: what is between its cells, and whether it quotes.

A tsv of a corpus has no quoting: a text may begin with a quote that nothing closes.
One that pandas or Excel wrote has. It is the second kind if in every column one rule
says of all cells whether they are in quotes.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.lines import Lines

NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SAMPLE = 500
EXCELS_OWN = re.compile('"?sep=(.)"?', re.IGNORECASE)
"""A first line that is no row: it tells Excel the delimiter."""

_LINE = re.compile(r"\r\n|\r|\n")
_Rule = Callable[[str], bool]


def read_delimiter(text: str) -> str:
    """Read a delimiter as users write it: a character, or ``tab``.

    Args:
        text: What was given.

    Returns:
        One character.

    Raises:
        SourceError: If it cannot be a delimiter.
    """
    named = {name: character for character, name in NAMES.items()} | {r"\t": "\t"}
    found = named.get(text.lower(), text)
    if len(found) != 1 or found in '"\r\n\0':
        raise SourceError(f"{text!r} is no delimiter: give one character (--delimiter)")
    return found


def find_delimiter(
    path: Path, encoding: str, usual: str, wanted: Callable[[str], bool]
) -> str:
    """Find what is between the cells of a file, by its first lines.

    Args:
        path: The file.
        encoding: Its encoding.
        usual: The delimiter that the ending of its name promises.
        wanted: Which names a column that is looked for may have.

    Returns:
        The delimiter; the usual one if there is one column.

    Raises:
        SourceError: If two delimiters are equally likely.
    """
    with Lines(path, encoding) as lines:
        sample = list(islice((line for line in lines if line.strip()), SAMPLE))
    named = EXCELS_OWN.fullmatch(sample[0].rstrip("\r\n")) if sample else None
    if named:
        return named[1]
    if usual == "\t" and sample and "\t" in sample[0]:
        return usual
    found = [_Guess(mark, sample) for mark in NAMES]
    likely = [guess for guess in found if guess.header[1:]]
    for better in (
        lambda guess: any(wanted(name.strip()) for name in guess.header),
        lambda guess: guess.even,
    ):
        likely = [guess for guess in likely if better(guess)] or likely
    if len(likely) > 1 and not likely[0].even and usual in NAMES:
        return usual
    if len(likely) > 1:
        both = " and ".join(NAMES[guess.mark] for guess in likely)
        raise SourceError(
            f"{path.name} may be divided by {both}; say by which (--delimiter)"
        )
    return likely[0].mark if likely else usual


class _Guess:
    """What the first lines would be, were they divided by one character."""

    def __init__(self, mark: str, sample: Sequence[str]) -> None:
        self.mark = mark
        rows = [row for row in csv.reader(sample, delimiter=mark) if row]
        self.header = rows[0] if rows else []
        self.even = all(len(row) == len(self.header) for row in rows)


def is_quoted(path: Path, encoding: str, delimiter: str) -> bool:
    """Find out whether a tsv was written with quotes around cells that need them.

    Args:
        path: The file.
        encoding: Its encoding.
        delimiter: What is between the cells.

    Returns:
        Whether it was.

    Raises:
        SourceError: If lines could be one quoted text as well as several rows.
    """
    columns: list[list[_Rule]] = []
    doubtful, seen = 0, False
    with Lines(path, encoding) as lines:
        for begin, row, raw in _records(lines, delimiter):
            text = raw.rstrip("\r\n")
            if not text:
                continue
            quoted = _which_quoted(row, text, delimiter)
            if not columns:  # names may be quoted or not
                columns = [_rules(delimiter)] * len(row)
            elif len(quoted) == len(columns):
                columns = [
                    [rule for rule in rules if rule(cell) == marked]
                    for rules, cell, marked in zip(columns, row, quoted, strict=True)
                ]
            if len(quoted) != len(columns) or not all(columns):
                return False
            seen = seen or any(quoted)
            if not doubtful and _LINE.search(text) and _even(text, delimiter, len(row)):
                doubtful = begin
    if doubtful:
        raise SourceError(
            f"{path.name}: a quote that begins in line {doubtful:,} ends in a later "
            "one: is that one text, or are these several rows? Write the table as csv "
            "or jsonl, where it can be told"
        )
    return seen


def _rules(delimiter: str) -> list[_Rule]:
    """Which cells are quoted: by csv, by Excel, all of them, all but numbers."""
    needed = {delimiter, '"', "\r", "\n"}
    return [
        lambda cell: not needed.isdisjoint(cell),
        lambda cell: not needed.isdisjoint(cell) or "," in cell,
        lambda _: True,
        lambda cell: not cell.replace(".", "", 1).isdecimal(),
    ]


def _records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Read rows with quotes: the first line, the cells and the text of each.

    After a row that breaks the rules comes one that no rule could have written.
    """
    taken: list[str] = []

    def kept() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    try:
        for row in csv.reader(kept(), delimiter=delimiter, strict=True):
            yield lines.number - len(taken) + 1, row, "".join(taken)
            taken.clear()
    except csv.Error:
        yield lines.number, [], "broken"


def _which_quoted(row: Sequence[str], text: str, delimiter: str) -> list[bool]:
    """Find which cells of a row are in quotes; none at all if it breaks the rules."""
    found, rest = [], text + delimiter
    for cell in row:
        written = '"' + cell.replace('"', '""') + '"' + delimiter
        quoted = rest.startswith(written)
        if not quoted:
            written = cell + delimiter
        if not rest.startswith(written):
            return []
        found.append(quoted)
        rest = rest[len(written) :]
    return found


def _even(text: str, delimiter: str, width: int) -> bool:
    lines = [line for line in _LINE.split(text) if line.strip()]
    return all(line.count(delimiter) == width - 1 for line in lines)
