"""Predictions as a table: a row for each of the data, told by where it was there."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kfac_artifacts.errors import PlaceError, SourceError
from kfac_artifacts.format import write_durably
from kfac_artifacts.places import check_file_free
from kfac_artifacts.sources.tables import Table
from kfac_artifacts.sources.tables.cells import is_unicode, kind_of

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
RESULT = ("class", "probability")
SIMPLE = {"strings", "numbers", "true or false", "dates", "times"}


def check_predictable(path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse a file that no predictions can be written to; best before long work.

    Args:
        path: The file; its ending says the format: csv, tsv, jsonl.
        inputs: What is read: the file may not be or lie in one of them.

    Raises:
        SourceError: If the ending is another one.
        PlaceError: If the file is there already, is an input, or cannot be written.
    """
    endings = (*DELIMITERS, *LINES)
    if Path(path).suffix not in endings:
        raise SourceError(
            f"cannot write predictions to {path}: end its name with "
            f"{', '.join(endings)}"
        )
    if Path(path).exists():  # nothing in a table tells who wrote it
        raise PlaceError(f"{path} exists already; choose another place, or remove it")
    check_file_free(path, inputs=inputs, is_ours=lambda _: False)


def check_copied(table: Table, copied: Sequence[str]) -> None:
    """Refuse columns that cannot be copied beside predictions.

    Args:
        table: The data.
        copied: Columns of it.

    Raises:
        SourceError: If one has the name of a column of the predictions, or holds what
            no cell can.
    """
    taken = sorted({table.unit, *RESULT} & {*copied})
    if taken:
        raise SourceError(
            f"{table.name}: column {taken[0]!r} cannot be copied (--copy): a column of "
            "the predictions is called so"
        )
    for name in copied:
        for i, value in enumerate(table.columns[name]):
            kind = kind_of(value)
            if value is None or (kind in SIMPLE and is_unicode(str(value))):
                continue
            raise SourceError(
                f"{table.name}: column {name!r} holds {kind} ({table.where([i])}), "
                "which cannot be copied (--copy)"
            )


def prediction_rows(
    table: Table, answers: Iterable[tuple[str, float]], copied: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """List the predictions, each with where its row was and what is copied of it.

    Args:
        table: The data.
        answers: The class of every row and its probability, in their order.
        copied: Columns to copy.

    Returns:
        Rows by name: the number of the line or row in the file (of a folder the path
        of the image), the copied columns, the class and its probability.

    Raises:
        SourceError: As of ``check_copied``.
    """
    check_copied(table, copied)
    places = table.columns["image"] if table.unit == "image" else table.numbers
    rows = []
    for i, answer in enumerate(answers):
        cells = {name: _plain(table.columns[name][i]) for name in copied}
        result = dict(zip(RESULT, answer, strict=True))
        rows.append({table.unit: places[i], **cells, **result})
    return rows


def write_predictions(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Write predictions to a file that appears whole or not at all.

    Args:
        rows: What ``prediction_rows`` lists.
        path: The file; its ending says the format: csv, tsv, jsonl.

    Raises:
        PlaceError: If it has appeared meanwhile, or cannot be written.
    """
    check_predictable(path, ())
    if Path(path).suffix in LINES:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_durably(Path(path), "".join(lines).encode())
    else:
        text = delimited(rows, DELIMITERS[Path(path).suffix])
        write_durably(Path(path), text.encode())


def delimited(rows: Iterable[dict[str, Any]], delimiter: str = ",") -> str:
    """Write rows as csv with a header; what is missing is an empty cell."""
    text = io.StringIO()
    writer: Any = None
    for row in rows:
        if writer is None:
            writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
            writer.writerow(row)
        writer.writerow("" if cell is None else cell for cell in row.values())
    return text.getvalue()


def _plain(value: Any) -> Any:
    """What JSON and csv can hold: numbers of other types as they are written."""
    return value if isinstance(value, bool | int | float | None) else str(value)
