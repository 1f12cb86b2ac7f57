"""Which columns of a table hold the texts and the images."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.cells import STRINGS, is_unicode, kind_of
from kfac_artifacts.sources.tables.table import Table, count

USUAL_TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "question")
USUAL_IMAGE_COLUMNS = ("image", "img")
USUAL_CHAT_COLUMNS = ("messages", "conversations", "conversation")
USUAL_PAIR = ("prompt", "completion")
"""What is continued, and how."""
TEXT, IMAGE, LABEL = "--text-column", "--image-column", "--label-column"
CHAT = "--chat-column"
COPY = "--copy"
MESSAGES = (("role", "content"), ("from", "value"))
"""What a message is called to have, by those who write conversations."""


def candidates(asked: Collection[str]) -> Callable[[str], bool]:
    """Say which columns may be used: those asked for, and those with usual names.

    Args:
        asked: Names of columns.

    Returns:
        A function of a name.
    """
    usual = {
        *USUAL_TEXT_COLUMNS,
        *USUAL_IMAGE_COLUMNS,
        *USUAL_CHAT_COLUMNS,
        *USUAL_PAIR,
    }
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
    if len(set(asked)) < len(asked) or label in asked:
        raise SourceError(
            f"{table.name}: a column is asked for twice, as texts ({TEXT}) or as texts "
            f"and classes ({LABEL}): {', '.join(map(repr, asked))}"
        )
    chosen = tuple(asked) or _usual(table, USUAL_TEXT_COLUMNS, label)[:1]
    if not chosen:
        raise SourceError(
            f"{table.name}: which column holds the texts? None is called "
            f"{', '.join(USUAL_TEXT_COLUMNS)}; name it ({TEXT}), two of prompts and "
            f"answers, or one of conversations ({CHAT}): {table.listing()}"
        )
    for name in chosen:
        check_column(table, name, TEXT)
        if not asked:
            _check_header(table, name)
        _check_texts(table, name)
    return chosen


def usual_pair(table: Table, label: str | None) -> tuple[str, ...]:
    """Columns of prompts and of what goes on with them, if both have usual names."""
    found = _usual(table, USUAL_PAIR, label)
    return found if tuple(map(str.casefold, found)) == USUAL_PAIR else ()


def usual_chats(table: Table, label: str | None) -> str | None:
    """The column of conversations, if one has a usual name and begins with one."""
    names = _usual(table, USUAL_CHAT_COLUMNS, label)
    return next((name for name in names if all_chats(table, [name])), None)


def all_chats(table: Table, names: Sequence[str]) -> bool:
    """Whether some columns begin with conversations."""
    firsts = [table.columns.get(name, [None])[0] for name in names]
    return all(map(_is_chat, firsts))


def check_chats(table: Table, name: str, option: str = CHAT) -> None:
    """Refuse a column that does not hold a conversation in every row.

    Args:
        table: The table.
        name: The column.
        option: What names it on a command line.

    Raises:
        SourceError: If a row has no list of messages, each with a role and a content.
    """
    check_column(table, name, option)
    wrong = [i for i, value in enumerate(table.columns[name]) if not _is_chat(value)]
    if wrong:
        raise SourceError(
            f"{table.name}: column {name!r} ({option}) holds no list of messages, each "
            f"an object with role and content (or from and value), in "
            f"{table.where(wrong)}"
        )


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        all(isinstance(value.get(k), str) and is_unicode(value[k]) for k in keys)
        for keys in MESSAGES
    )


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
    check_column(table, chosen, IMAGE)
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


def check_column(table: Table, name: str, option: str) -> None:
    """Refuse a column that is not there, or is there twice.

    Args:
        table: The table.
        name: The column.
        option: What names it on a command line.

    Raises:
        SourceError: If it is not there once.
    """
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
