"""DATA of a command: read before anything slow is imported, and said what was read."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kfac_artifacts.sources import Data, ImageExamples, TextExamples

_READING = (
    "split",
    "text_columns",
    "image_column",
    "delimiter",
    "encoding",
    "no_header",
)


def open_data(
    model: str, data: str, options: dict[str, Any], label_column: str | None = None
) -> "Data":
    """Read data as a command's options say, which are taken out of these.

    Nothing is known of the model but whether it can be one.
    """
    from kfac_artifacts.sources import check_model

    check_model(model)
    return read(data, label_column=label_column, **take_reading(options))


def take_reading(options: dict[str, Any]) -> dict[str, Any]:
    """Take out of a command's options those that say how data are read."""
    return {name: options.pop(name) for name in _READING}


def read(
    data: str,
    *,
    split: str | None,
    text_columns: Sequence[str],
    image_column: str | None,
    delimiter: str | None,
    encoding: str | None,
    no_header: bool,
    label_column: str | None = None,
    classes: Sequence[str] = (),
) -> "Data":
    """Read data as the options of a command say."""
    from kfac_artifacts.sources import Columns, Layout, read_data

    columns = Columns(tuple(text_columns), image_column, label_column, classes)
    layout = Layout(delimiter, encoding, header=not no_header)
    return read_data(data, split=split, columns=columns, layout=layout)


def tell(
    examples: "TextExamples | ImageExamples", used: int | None = None
) -> dict[str, Any]:
    """Say on stderr what was read and how much of it is used; give the same as JSON."""
    click.echo(examples.account(used), err=True)
    return {
        "data": examples.description.id,
        "rows": len(examples),
        "blank_lines": examples.rows.blank,
        "columns": list(examples.used_columns),
        "label_column": examples.known_labels.column,
        "classes": len(set(examples.labels)),
        "notes": list(examples.rows.notes),
        "used": used,
    }


def of_task(
    values: Sequence[str], task: Sequence[str], tasks: Iterable[Sequence[str]]
) -> list[str]:
    """Take the values that are for one task, else those that are for all.

    Args:
        values: ``TAU=NAME`` for the task vector TAU alone, or ``NAME``.
        task: What TAU may be: the path, and the name.
        tasks: The same of all task vectors.
    """
    own = [
        value.removeprefix(f"{name}=")
        for name in dict.fromkeys(task)
        for value in values
        if value.startswith(f"{name}=")
    ]
    theirs = tuple(f"{name}=" for names in tasks for name in names)
    return own or [value for value in values if not value.startswith(theirs)]
