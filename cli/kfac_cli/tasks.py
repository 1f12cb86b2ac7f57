"""``TAU=DATA`` of a command: task vectors, each with the data of its task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from typing_extensions import override

from kfac_cli import console
from kfac_cli.data import EncodeOptions, TableOptions, tell
from kfac_cli.given import VECTOR, is_vector
from kfac_cli.groups import option

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import EvaluationTask
    from kfac_artifacts.network import Network
    from kfac_artifacts.sources import Data


@dataclass(frozen=True)
class SeveralDataOptions(TableOptions):
    """How several data are read, some of them in their own way; without labels."""

    image_columns: tuple[str, ...] = option(
        "--image-column",
        "image_columns",
        multiple=True,
        metavar="[TAU=]NAME",
        help="Column with the image. [default: found by type]",
    )

    def read(self, pairs: Mapping[str, str]) -> "dict[str, Data]":
        """Read the data of every task vector, each by the columns that are its own."""
        return self._read(pairs, (), None)

    def _read(
        self, pairs: Mapping[str, str], labels: Sequence[str], usual: str | None
    ) -> "dict[str, Data]":
        from kfac_artifacts.sources import Columns, read_data

        tasks = [(path, Path(path).name) for path in pairs]
        found = {}
        for (path, data), task in zip(pairs.items(), tasks, strict=True):
            own = partial(of_task, task=task, tasks=tasks)
            place, named = split_columns(data)
            images, classes = own(self.image_columns), [*named[-1:]] or own(labels)
            if len(images) > 1 or len(classes) > 1:
                raise click.UsageError(
                    f"several columns of images or labels for {path}"
                )
            columns = Columns(
                named[:-1] or own(self.text_columns),
                image=images[0] if images else None,
                label=classes[0] if classes else usual,
            )
            found[path] = read_data(
                place, split=self.split, columns=columns, layout=self.layout
            )
        return found


@dataclass(frozen=True)
class TaskDataOptions(SeveralDataOptions):
    """The same, with the class of every example."""

    label_columns: tuple[str, ...] = option(
        "--label-column",
        "label_columns",
        multiple=True,
        metavar="[TAU=]NAME",
        help="Column with the class, of one task or of all.  [default: label]",
    )

    @override
    def read(self, pairs: Mapping[str, str]) -> "dict[str, Data]":
        return self._read(pairs, self.label_columns, "label")


def split_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Split every ``TAU=DATA``; gives data by task vector."""
    found = dict(map(split_pair, pairs))
    if len(found) != len(pairs):
        raise click.UsageError("a task vector occurs twice; every TAU counts once")
    return found


def split_pair(pair: str) -> tuple[str, str]:
    """Split ``TAU=DATA`` at the equals sign before which there is a task vector."""
    places = [i for i, character in enumerate(pair) if character == "="]
    splits = [(pair[:i], pair[i + 1 :]) for i in places if pair[:i] and pair[i + 1 :]]
    if not splits:
        raise click.UsageError(f"{pair!r} is not TAU=DATA")
    found = [(tau, data) for tau, data in splits if is_vector(Path(tau))]
    if len(found) > 1:
        found = [(tau, data) for tau, data in found if Path(data).exists()] or found
    if len(found) == 1:
        return found[0]
    tried = " or ".join(repr(tau) for tau, _ in found or splits)
    what = "is not one task vector but" if found else "has no task vector at"
    raise console.failure(f"{pair!r} {what} {tried} ({VECTOR})", code=3)


def places(*data: Mapping[str, str]) -> list[str]:
    """Where data are, without their columns."""
    return [split_columns(each)[0] for pairs in data for each in pairs.values()]


def split_columns(data: str) -> tuple[str, tuple[str, ...]]:
    """Split ``DATA:TEXT,LABEL``: the data, and columns of which the last is the class.

    A Hub id may have a configuration behind a colon, so there a comma tells columns;
    and what exists as it is written has none.
    """
    found, colon, columns = data.rpartition(":")
    is_file = Path(found).is_file()
    if not colon or Path(data).exists() or not (is_file or "," in columns):
        return data, ()
    names = tuple(name.strip() for name in columns.split(","))
    if not all(names) or not 2 <= len(names) <= 3:
        raise click.UsageError(
            f"{data!r}: behind the data there are {columns!r}, not the columns of text "
            "and class as in data.csv:text,label (or two of a pair, and the class)"
        )
    return found, names


def load_tasks(
    network: "Network", data: "Mapping[str, Data]", encoding: EncodeOptions
) -> "tuple[list[EvaluationTask], list[dict[str, Any]]]":
    """Load every task vector, encode its data with its classes, say what is used."""
    from kfac_artifacts.evaluate import EvaluationTask
    from kfac_artifacts.task_vector import TaskVector

    names = short_names(data)
    tasks, accounts = [], []
    for path, found in data.items():
        vector = TaskVector.load(path)
        known = (
            found if vector.head is None else found.with_classes(vector.head.classes)
        )
        examples = encoding.encode(known, network)
        tasks.append(EvaluationTask(names[path], vector, examples))
        accounts.append(tell(examples, len(examples)))
    return tasks, accounts


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Call every path by its last part; those that share one by the whole."""
    last = {path: Path(path).name for path in paths}
    names = [*last.values()]
    return {p: name if names.count(name) == 1 else p for p, name in last.items()}


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
