"""Which columns of a table hold the texts, the images and the classes."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.cells import (
    NAMING,
    STRINGS,
    class_name,
    is_missing,
    is_unicode,
    kind_of,
)
from kfac_artifacts.sources.tables.table import Table, count, listed

USUAL_TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "question")
USUAL_IMAGE_COLUMNS = ("image", "img")
TEXT, IMAGE, LABEL = "--text-column", "--image-column", "--label-column"
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


def candidates(asked: Collection[str]) -> Callable[[str], bool]:
    """Say which columns may be used: those asked for, and those with usual names.

    Args:
        asked: Names of columns.

    Returns:
        A function of a name.
    """
    usual = {*USUAL_TEXT_COLUMNS, *USUAL_IMAGE_COLUMNS}
    return lambda name: name in asked or name.casefold() in usual


def text_columns(
    table: Table, asked: Sequence[str], label: str | None
) -> tuple[str, ...]:
    """Choose the columns of texts: those asked for, or the first with a usual name.

    Args:
        table: The table.
        asked: The columns named by the user, if any.
        label: The column of labels, which is no candidate.

    Returns:
        One column, or two that form a pair.

    Raises:
        SourceError: If a column is not there or does not hold a text in every row, or
            if none was named and none has a usual name.
    """
    if len(asked) > 2:
        raise SourceError(
            f"a model reads one text or a pair, not {len(asked)} columns ({TEXT})"
        )
    chosen = tuple(asked) or _usual(table, USUAL_TEXT_COLUMNS, label)[:1]
    if not chosen:
        raise SourceError(
            f"{table.name}: which column holds the texts? None is called "
            f"{', '.join(USUAL_TEXT_COLUMNS)}; name it ({TEXT}): {table.listing()}"
        )
    for name in chosen:
        _check_column(table, name, TEXT)
        if not asked:
            _check_header(table, name)
        _check_texts(table, name)
    return chosen


def image_column(table: Table, asked: str | None) -> str:
    """Choose the column of images, by name or by type.

    Args:
        table: The table.
        asked: The column named by the user, if any.

    Returns:
        The column.

    Raises:
        SourceError: If the named column is not there or holds no images, or if none was
            named and none is the obvious one.
    """
    usual = _usual(table, USUAL_IMAGE_COLUMNS, None)
    found = table.images if len(table.images) == 1 else usual
    chosen = found[0] if asked is None and found else asked
    if chosen is None:
        raise SourceError(
            f"{table.name}: which column holds the images? name it ({IMAGE}): "
            f"{table.listing()}"
        )
    _check_column(table, chosen, IMAGE)
    if asked is None and chosen not in table.images:
        _check_header(table, chosen)
    if chosen not in table.images:
        paths = (kind_of(value) == STRINGS for value in table.columns[chosen])
        if not all(paths):
            raise SourceError(
                f"{table.name}: column {chosen!r} holds neither images nor paths to "
                f"them; name another ({IMAGE})"
            )
    return chosen


def has_texts(table: Table, label: str | None) -> bool:
    """Whether a column has a usual name for texts."""
    return bool(_usual(table, USUAL_TEXT_COLUMNS, label))


def has_images(table: Table) -> bool:
    """Whether a column is one of images, by its type or its name."""
    return bool(table.images or _usual(table, USUAL_IMAGE_COLUMNS, None))


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
    _check_column(table, column, LABEL)
    values = table.columns[column]
    kinds = _check_kinds(table, column, values)
    declared = table.declared.get(column, ()) if STRINGS not in kinds else ()
    if declared:
        names = _declared_names(table, column, values, declared)
    else:
        names = [class_name(value) for value in values]
        _check_present(table, column, [i for i, name in enumerate(names) if not name])
    classes = list(known or declared or _in_order(set(names)))
    position = {name: i for i, name in enumerate(classes)}
    unknown = [i for i, name in enumerate(names) if name not in position]
    if unknown:
        raise SourceError(
            f"{table.name}: column {column!r} has "
            f"{len({names[i] for i in unknown})} class(es) that are not known, in "
            f"{count(len(unknown), 'row')} ({table.where(unknown)}); known are "
            f"{listed(classes)} ({LABEL})"
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


def _declared_names(
    table: Table, column: str, values: Iterable[Any], declared: Sequence[str]
) -> list[str]:
    numbers = [int(value) for value in values]
    _check_present(table, column, [i for i, n in enumerate(numbers) if n == -1])
    wrong = [i for i, n in enumerate(numbers) if not 0 <= n < len(declared)]
    if wrong:
        raise SourceError(
            f"{table.name}: column {column!r} holds numbers of classes beyond "
            f"the {len(declared)} that the file declares: {table.where(wrong)}"
        )
    return [declared[n] for n in numbers]


def _in_order(names: set[str]) -> list[str]:
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _check_texts(table: Table, name: str) -> None:
    """Refuse a column that does not hold a text in every row."""
    values = table.columns[name]
    empty = []
    for i, value in enumerate(values):
        if value is None:
            empty.append(i)
        elif kind_of(value) != STRINGS:
            kind = table.types.get(name, kind_of(value))
            raise SourceError(
                f"{table.name}: column {name!r} holds {kind} ({table.where([i])}), not "
                f"texts; name another ({TEXT})"
            )
        elif not value.strip():
            empty.append(i)
        elif not is_unicode(value):
            raise SourceError(
                f"{table.name}: the text of column {name!r} in {table.where([i])} has "
                "half of a character in it (a lone surrogate)"
            )
    if empty:
        raise SourceError(
            f"{table.name}: column {name!r} has no text in "
            f"{count(len(empty), 'row')}: {table.where(empty)}; remove them, or "
            f"name another column ({TEXT})"
        )


def _usual(table: Table, usual: Sequence[str], label: str | None) -> tuple[str, ...]:
    """Columns with a usual name, in the order of these."""
    return tuple(
        name
        for word in usual
        for name in dict.fromkeys(table.names)
        if name.casefold() == word and name != label
    )


def _check_header(table: Table, name: str) -> None:
    """Refuse a name that comes again below, as a class in a first row that is data."""
    if table.headed and name in table.columns[name]:
        raise SourceError(
            f"{table.name}: a column is called {name!r}, and a row of it holds the "
            f"same, so the first row may be no header: give --no-header, or {TEXT} "
            f"{name} if it is one"
        )


def _check_column(table: Table, name: str, option: str) -> None:
    times = table.names.count(name)
    if times == 1:
        return
    if times:
        raise SourceError(
            f"{table.name}: {times} columns are called {name!r} ({option})"
        )
    likeness = 0.8 if table.named else 1.0  # what is like a name may be a cell
    similar = difflib.get_close_matches(
        name.casefold(), [n.casefold() for n in table.names], 1, likeness
    )
    meant = [n for n in table.names if n.casefold() in similar]
    hint = f" did you mean {meant[0]!r}?" if meant else ""
    raise SourceError(
        f"{table.name} has no column {name!r} ({option});{hint} {table.listing()}"
    )
