"""A table by the ending of its name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.arrow import read_parquet
from kfac_artifacts.sources.tables.delimited import USUAL, read_delimited
from kfac_artifacts.sources.tables.foreign import advice, check_text, known
from kfac_artifacts.sources.tables.json_lines import read_json
from kfac_artifacts.sources.tables.lines import find_encoding
from kfac_artifacts.sources.tables.table import Table
from kfac_artifacts.sources.tables.unpack import PACKED, compression

JSON = (".jsonl", ".ndjson", ".json")
ENDINGS = (*USUAL, *JSON, ".parquet")


@dataclass(frozen=True)
class Layout:
    """How a file of text is laid out, as far as the user says so.

    Attributes:
        delimiter: What is between the cells of a csv or tsv; None to find out.
        encoding: Encoding; None for what the byte order mark says, or UTF-8.
        header: Whether the first row of a csv or tsv has the names of the columns; if
            not, columns are called by their numbers, from 1.
    """

    delimiter: str | None = None
    encoding: str | None = None
    header: bool = True


def ending(path: Path) -> str:
    """Find the ending that says what a table is, without that of its compression."""
    packed = path.suffix.lower() in PACKED
    return (Path(path.stem) if packed else path).suffix.lower()


def read_table(path: Path, wanted: Callable[[str], bool], layout: Layout) -> Table:
    """Read some columns of a table.

    Args:
        path: A file with one of the ``ENDINGS``, compressed or not.
        wanted: Which columns may be used, by name.
        layout: What the user says of it.

    Returns:
        The table.

    Raises:
        SourceError: If it is no table, or cannot be read.
    """
    kind = ending(path)
    if kind not in ENDINGS:
        raise SourceError(f"{path.name} is no table; {known(ENDINGS)}{advice(kind)}")
    _check_layout(path, kind, layout)
    if kind == ".parquet":
        return read_parquet(path, wanted)
    check_text(path)
    packed, encoding = compression(path), find_encoding(path, layout.encoding)
    if kind in JSON:
        table = read_json(path, wanted, encoding=encoding)
    else:
        table = read_delimited(
            path,
            kind,
            wanted,
            encoding=encoding,
            delimiter=layout.delimiter,
            header=layout.header,
        )
    notes = (*table.notes, *([packed] if packed else []))
    if not encoding.startswith("utf-8"):
        notes = (*notes, encoding)
    return replace(table, notes=notes)


def _check_layout(path: Path, kind: str, layout: Layout) -> None:
    if kind not in USUAL and (layout.delimiter is not None or not layout.header):
        raise SourceError(
            f"{path.name} names its columns itself: --delimiter and --no-header are "
            f"for {' and '.join(USUAL)}"
        )
    if kind == ".parquet" and layout.encoding is not None:
        raise SourceError(f"{path.name} is no text: --encoding is for other files")
