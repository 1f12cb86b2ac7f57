"""Tables of Arrow, from parquet files and from the ``datasets`` library."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.table import Table


@dataclass(frozen=True, eq=False)
class ArrowColumn(Sequence[Any]):
    """A column whose values become Python's one by one.

    Attributes:
        values: The column.
    """

    values: Any

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return ArrowColumn(self.values[index])
        return self.values[index].as_py()

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.values.iterchunks():
            yield from chunk.to_pylist()


def read_parquet(path: Path, wanted: Callable[[str], bool]) -> Table:
    """Read some columns of a parquet file.

    Args:
        path: The file.
        wanted: Which columns may be used, by name.

    Returns:
        The table.

    Raises:
        SourceError: If it cannot be read.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            schema = file.schema_arrow
            kept = [f.name for f in schema if wanted(f.name.strip()) or _is_image(f)]
            rows = file.read(columns=list(dict.fromkeys(kept)))
            count = file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"{path.name} cannot be read: {reason}") from error
    return from_arrow(path.name, schema, rows, count, wanted)


def from_arrow(
    name: str, schema: Any, rows: Any, count: int, wanted: Callable[[str], bool]
) -> Table:
    """Take the columns of an Arrow table that may be used.

    Args:
        name: What the table is called.
        schema: Its schema, with the metadata of the ``datasets`` library if it has any.
        rows: The table, or a part of its columns.
        count: Number of its rows.
        wanted: Which columns may be used, by name.

    Returns:
        The table.

    Raises:
        SourceError: If a text in a column is not UTF-8.
    """
    columns, types = {}, {}
    for place, field in enumerate(rows.schema):
        key = field.name.strip()
        if wanted(key) or _is_image(field):
            column = _plain(name, key, rows.column(place))
            columns[key], types[key] = ArrowColumn(column), str(column.type)
    features = _features(schema)
    return Table(
        name=name,
        names=tuple(field.name.strip() for field in schema),
        columns=columns,
        numbers=range(1, count + 1),
        types=types,
        declared={
            key.strip(): tuple(feature["names"])
            for key, feature in features.items()
            if feature.get("_type") == "ClassLabel" and _are_names(feature.get("names"))
        },
        images=tuple(field.name.strip() for field in schema if _is_image(field)),
    )


def _features(schema: Any) -> Mapping[str, dict[str, Any]]:
    """What the ``datasets`` library says of the columns, if it wrote the file."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(content).get("info", {}).get("features", {})
        return {key: value for key, value in found.items() if isinstance(value, dict)}
    except (ValueError, AttributeError):
        return {}


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_image(field: Any) -> bool:
    kind = field.type
    if not pa.types.is_struct(kind):
        return False
    return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}


def _plain(name: str, key: str, column: Any) -> Any:
    """Decode what is stored in a way of its own."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        values = column.to_pylist()
        shortest = [None if v is None else float(str(np.float32(v))) for v in values]
        return pa.chunked_array([pa.array(shortest, pa.float64())])
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            raise SourceError(
                f"{name}: column {key!r} holds bytes that are not UTF-8"
            ) from error
    return column
