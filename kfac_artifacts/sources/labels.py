"""The class of every row of a table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kfac_artifacts.errors import SourceError, listed
from kfac_artifacts.names import MOST_CHARACTERS, is_name
from kfac_artifacts.sources.columns import LABEL, check_column
from kfac_artifacts.sources.tables.cells import (
    NAMING,
    STRINGS,
    class_name,
    is_missing,
    kind_of,
)
from kfac_artifacts.sources.tables.table import Table, count

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_NO_CLASSES = re.compile(r"timestamp|time|duration|.*(list|struct|map|binary|union)")


@dataclass(frozen=True)
class Labels:
    """The class of every example, as an index into the names of the classes.

    Attributes:
        indices: The class of every example.
        classes: Name of every class.
        column: Where they are from.
    """

    indices: Sequence[int] = ()
    classes: Sequence[str] = ()
    column: str | None = None


def read_labels(table: Table, column: str | None, known: Sequence[str]) -> Labels:
    """Read the class of every example.

    Args:
        table: The table.
        column: The column of classes; None for no labels.
        known: Names of all classes in order; none for the ones found.

    Returns:
        The labels. Classes are in the order of ``known``, else as the dataset declares
        them, else sorted, as numbers if all are.

    Raises:
        SourceError: If there is no such column, a label is missing or is no name, or a
            class is not among the known ones.
    """
    if column is None:
        return Labels()
    check_column(table, column, LABEL)
    values = table.columns[column]
    kinds = _check_kinds(table, column, values)
    declared = table.declared.get(column, ()) if STRINGS not in kinds else ()
    if declared:
        names = _declared_names(table, column, values, declared)
    else:
        names = [class_name(value) for value in values]
    _check_names(table, column, names)
    classes = list(known or declared or _in_order(set(names)))
    position = {class_name(name): i for i, name in enumerate(classes)}
    unknown = [i for i, name in enumerate(names) if name not in position]
    if unknown:
        raise SourceError(
            f"{table.name}: column {column!r} has "
            f"{len({names[i] for i in unknown})} class(es) that are not known, in "
            f"{count(len(unknown), 'row')} ({table.where(unknown)}); known are "
            f"{listed(classes, 20)} ({LABEL})"
        )
    return Labels([position[name] for name in names], classes, column)


def _check_kinds(table: Table, column: str, values: Iterable[Any]) -> set[str]:
    """Refuse a column in which some value is no name, or not of the others' kind."""
    kind = table.types.get(column, "")
    if _NO_CLASSES.match(kind):
        raise SourceError(
            f"{table.name}: column {column!r} holds {kind}, not names of classes "
            f"({LABEL})"
        )
    first: dict[str, int] = {}
    missing = []
    for i, value in enumerate(values):
        if is_missing(value):
            missing.append(i)
        else:
            first.setdefault(kind_of(value), i)
    _check_present(table, column, missing)
    wrong = [kind for kind in first if kind not in NAMING]
    if wrong or len(first) > 1:
        found = ", ".join(f"{kind} ({table.where([i])})" for kind, i in first.items())
        raise SourceError(
            f"{table.name}: column {column!r} holds {found}; a label is a string or a "
            f"number, and all are of one kind ({LABEL})"
        )
    return set(first)


def _check_present(table: Table, column: str, missing: Sequence[int]) -> None:
    if missing:
        raise SourceError(
            f"{table.name}: column {column!r} has no label in "
            f"{count(len(missing), 'row')}: {table.where(missing)}; remove them, or "
            f"name another column ({LABEL})"
        )


def _check_names(table: Table, column: str, names: Sequence[str]) -> None:
    """Refuse what no task vector can hold, such as a whole text for a class."""
    _check_present(table, column, [i for i, name in enumerate(names) if not name])
    bad = {name for name in set(names) if not is_name(name)}
    if bad:
        rows = [i for i, name in enumerate(names) if name in bad]
        raise SourceError(
            f"{table.name}: column {column!r} has {count(len(bad), 'class')} that "
            f"cannot be named in {count(len(rows), 'row')}: {table.where(rows)}; a "
            f"name has at most {MOST_CHARACTERS} characters, none of them invisible "
            f"or a line break ({LABEL})"
        )


def _declared_names(
    table: Table, column: str, values: Iterable[Any], declared: Sequence[str]
) -> list[str]:
    if len({class_name(name) for name in declared}) < len(declared):
        raise SourceError(
            f"{table.name}: two classes of column {column!r} are declared by one name "
            f"({LABEL})"
        )
    broken = [i for i, value in enumerate(values) if not _is_whole(value)]
    if broken:
        raise SourceError(
            f"{table.name}: column {column!r} is declared to hold numbers of classes, "
            f"and holds something else: {table.where(broken)} ({LABEL})"
        )
    numbers = [int(value) for value in values]
    _check_present(table, column, [i for i, n in enumerate(numbers) if n == -1])
    wrong = [i for i, n in enumerate(numbers) if not 0 <= n < len(declared)]
    if wrong:
        raise SourceError(
            f"{table.name}: column {column!r} holds numbers of classes beyond "
            f"the {len(declared)} that the file declares: {table.where(wrong)}"
        )
    return [class_name(declared[n]) for n in numbers]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and value == int(value)


def _in_order(names: set[str]) -> list[str]:
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)
