"""Tables of JSON: one object per line, or a list of objects."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.cells import Number, kind_of
from kfac_artifacts.sources.tables.lines import Lines
from kfac_artifacts.sources.tables.table import Table


class _Doubled(dict[str, Any]):
    """An object in which a key occurs twice."""


def read_json(path: Path, wanted: Callable[[str], bool], *, encoding: str) -> Table:
    """Read some columns of a file of JSON objects.

    Args:
        path: The file.
        wanted: Which columns may be used, by name.
        encoding: Its encoding.

    Returns:
        The table; a key that an object lacks is null.

    Raises:
        SourceError: If a line is no JSON object.
    """
    rows = _Rows(wanted)
    with Lines(path, encoding) as lines:
        first = next((line for line in lines if line.strip()), "")
        whole = first.lstrip().startswith("[")
        unit = "row" if whole else "line"
        reader = _listed(path, first, lines) if whole else _by_line(path, first, lines)
        for number, row in reader:
            where = f"{path.name}: {unit} {number:,}"
            if not isinstance(row, dict):
                raise SourceError(
                    f"{where} holds {kind_of(row)}, not one object with a key per "
                    "column"
                )
            if isinstance(row, _Doubled) or not rows.add(number, row):
                raise SourceError(f"{where} has a key twice")
        blank = 0 if whole else lines.number - len(rows.numbers)
    names = tuple(dict.fromkeys(rows.names.values()))
    named = not rows.once  # else a key may be a text
    return Table(path.name, names, rows.columns, rows.numbers, unit, blank, named=named)


@dataclass
class _Rows:
    """What is read, row by row; ``names`` are the keys without spaces around them.

    Keys that only one row has are in ``once``.
    """

    wanted: Callable[[str], bool]
    names: dict[str, str] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    once: set[str] = field(default_factory=set)

    def add(self, number: int, row: dict[str, Any]) -> bool:
        """Take the values that may be used; tell whether no name comes twice."""
        for key in row:
            if key not in self.names:
                self.once.add(key)
                name = self.names[key] = key.strip()
                if self.wanted(name):
                    self.columns.setdefault(name, [None] * len(self.numbers))
            elif self.once:
                self.once.discard(key)
        found = {self.names[key]: value for key, value in row.items()}
        for name, values in self.columns.items():
            values.append(found.get(name))
        self.numbers.append(number)
        return len(found) == len(row)


def _by_line(path: Path, first: str, lines: Lines) -> Iterator[tuple[int, Any]]:
    for line in chain([first], lines):
        if line.strip():
            content = line.rstrip("\r\n")
            yield lines.number, _parse(path, content, f"line {lines.number:,}")


def _listed(path: Path, first: str, lines: Lines) -> Iterator[tuple[int, Any]]:
    rows = _parse(path, "".join(chain([first], lines)), "the list in it")
    yield from enumerate(rows, 1)


def _parse(path: Path, text: str, what: str) -> Any:
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise SourceError(f"{path.name}: {what} is nested too deeply") from error
    except json.JSONDecodeError as error:
        place = f"character {error.colno:,}"
        if error.lineno > 1:
            place = f"line {error.lineno:,}, {place}"
        raise SourceError(
            f"{path.name}: {what} is no JSON: {error.msg.removesuffix(' at')} at "
            f"{place}; every line holds one object, or the file one list of objects, "
            "which is in no other object"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Doubled(found)


_DECODER = json.JSONDecoder(
    parse_int=Number,
    parse_float=Number,
    parse_constant=lambda text: float(text) if text == "NaN" else Number(text),
    object_pairs_hook=_object,
)
