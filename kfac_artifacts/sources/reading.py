"""Data by name, read and checked before any model is loaded: without torch."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.columns import (
    CHAT,
    COPY,
    IMAGE,
    LABEL,
    TEXT,
    all_chats,
    candidates,
    check_chats,
    check_column,
    has_images,
    has_texts,
    image_column,
    text_columns,
    usual_chats,
    usual_pair,
)
from kfac_artifacts.sources.description import Description
from kfac_artifacts.sources.image_folder import ImageFolder, list_images
from kfac_artifacts.sources.labels import Labels, read_labels
from kfac_artifacts.sources.naming import data_name
from kfac_artifacts.sources.tables import (
    ENDINGS,
    Layout,
    Table,
    ending,
    read_table,
)
from kfac_artifacts.sources.tables.table import count

HUB_ID = re.compile(r"(?P<id>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>[^:/]+))?")
AS_FOUND = Layout()
FEWEST_EXAMPLES = 2  # of one example there is no mean to speak of


@dataclass(frozen=True)
class Columns:
    """What the user says of the columns.

    Attributes:
        text: One column of texts, or two that form a pair, be it of conversations and
            how they go on; none for a usual name.
        image: The column of images; None for the obvious one.
        label: The column of classes; None if labels are not needed.
        classes: Names of all classes in order, for example those of the training set;
            none for the ones found, sorted.
        copied: Columns that are read beside them, and written again.
        chat: The column of conversations; None if there are texts or images.
    """

    text: Sequence[str] = ()
    image: str | None = None
    label: str | None = None
    classes: Sequence[str] = ()
    copied: Sequence[str] = ()
    chat: str | None = None

    @property
    def asked(self) -> set[str]:
        """All columns that are named."""
        named = {self.image, self.label, self.chat} - {None}
        return {*self.text, *self.copied, *map(str, named)}


USUAL_COLUMNS = Columns()


@dataclass(frozen=True, eq=False)
class Data:
    """Data that were read, before it is known which model they are for.

    Attributes:
        table: Columns of texts, or of images or paths to them.
        description: What the data are called.
        columns: What the user says of the columns.
        labels: The classes, if they were asked for.
        folder: What paths in the table are relative to.
    """

    table: Table
    description: Description
    columns: Columns
    labels: Labels = field(default_factory=Labels)
    folder: Path = Path()

    @property
    def of_images(self) -> bool:
        """Whether they are taken for images where a model could read both."""
        asked = self.columns.image is not None
        if self.chats:
            return False
        return asked or (not self.columns.text and has_images(self.table))

    @property
    def chats(self) -> tuple[str, ...]:
        """Columns of conversations: one, or one that goes on with another; or none."""
        if self.columns.chat is not None:
            return (self.columns.chat,)
        pair = tuple(self.columns.text)
        return pair if len(pair) > 1 and all_chats(self.table, pair) else ()

    def texts(self) -> tuple[str, ...]:
        """Choose the columns of texts, or of conversations; see ``columns``."""
        if self.chats:
            return self.chats
        return text_columns(self.table, self.columns.text, self.columns.label)

    def with_classes(self, classes: Sequence[str]) -> "Data":
        """Number the classes as another dataset does, such as the training set."""
        label = self.columns.label
        return replace(self, labels=read_labels(self.table, label, classes))

    def check_classes(self) -> None:
        """Refuse a single class, of which nothing can be learnt.

        Raises:
            SourceError: If there is one.
        """
        if len(self.labels.classes) == 1:
            raise SourceError(
                f"{self.table.name}: all rows are of one class, and training needs "
                f"two; is {self.columns.label!r} the column of classes ({LABEL})?"
            )

    def images(self) -> str:
        """Choose the column of images, and see whether their files are there."""
        column = image_column(self.table, self.columns.image)
        if self.table.unit != "image" and column not in self.table.images:
            values = self.table.columns[column]
            lost = [i for i, v in enumerate(values) if not (self.folder / v).is_file()]
            if lost:
                raise SourceError(
                    f"{self.table.name}: column {column!r} names "
                    f"{count(len(lost), 'file')} that cannot be found beside the table "
                    f"or where the whole path says: {self.table.where(lost)}"
                )
        return column


def read_data(
    data: str,
    *,
    split: str | None = None,
    columns: Columns = USUAL_COLUMNS,
    layout: Layout = AS_FOUND,
    fewest: int = FEWEST_EXAMPLES,
) -> Data:
    """Read a dataset, and check what can be checked without a model.

    Args:
        data: A csv, tsv, json, jsonl or parquet file, compressed or not; a folder of
            images, with a subfolder per class if there are labels; or a ``datasets``
            Hub id, with ``:configuration`` behind it if it has several.
        split: Split of a Hub dataset or an image folder; None for ``train``, or the
            only one.
        columns: What the user says of the columns. Where nothing is said and none has
            a usual name for texts or images, ``messages`` or ``conversations`` are
            conversations, or ``prompt`` and ``completion`` a pair.
        layout: What the user says of a file of text.
        fewest: Data of fewer examples are refused.

    Returns:
        The data.

    Raises:
        SourceError: If the data cannot be found or read, or have no such columns.
    """
    try:
        table, description, folder = _open(data, split, columns, layout)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"{data!r} cannot be read: {reason}") from error
    if not len(table):
        below = " below the header (is that a row? --no-header)" if table.headed else ""
        raise SourceError(f"{description.id} is empty: it has no row{below}")
    labels = read_labels(table, columns.label, columns.classes)
    found = Data(table, description, _chosen(columns, table), labels, folder)
    _check_columns(found)
    for name in columns.copied:
        check_column(table, name, COPY)
    if len(table) < fewest:
        raise SourceError(
            f"{description.id} has {len(table)} example(s); at least {fewest} "
            "are needed, because what is computed from one alone would show it"
        )
    return found


def _chosen(columns: Columns, table: Table) -> Columns:
    """What the user says; else conversations or prompts, if no column is of texts."""
    label = columns.label
    said = columns.text or columns.image is not None or columns.chat is not None
    if said or has_texts(table, label) or has_images(table):
        return columns
    chat = usual_chats(table, label)
    return replace(columns, text=() if chat else usual_pair(table, label), chat=chat)


def _check_columns(data: Data) -> None:
    """Refuse data in which what a model could read cannot be found, or is not whole."""
    table, columns = data.table, data.columns
    if columns.chat is not None and (columns.text or columns.image is not None):
        raise SourceError(
            f"{CHAT} goes without {TEXT} and {IMAGE}: a conversation is an example"
        )
    if data.chats:
        for name in data.chats:
            check_chats(table, name, TEXT if columns.chat is None else CHAT)
        return
    of_images = columns.image is not None or has_images(table)
    of_texts = bool(columns.text) or has_texts(table, columns.label)
    if columns.text or not of_images:
        data.texts()
    if columns.image is not None or (of_images and not of_texts):
        data.images()


def _open(
    data: str, split: str | None, columns: Columns, layout: Layout
) -> tuple[Table, Description, Path]:
    if not data.strip():
        raise SourceError("no data are named: give a file, a folder or a Hub id")
    path = Path(data).expanduser()
    wanted = candidates(columns.asked)
    if path.is_file():
        table = _open_file(path, split, wanted, layout)
        return table, Description(data_name(path)), path.parent
    if layout != AS_FOUND:
        raise SourceError(
            f"{data!r} is no file: --delimiter, --encoding and --no-header are for one"
        )
    if path.is_dir():
        found = list_images(path, split, labelled=columns.label is not None)
        description = Description(data_name(path), None, found.split)
        return _of_images(found, description.id), description, found.root
    if path.exists() or data == "-":
        raise SourceError(f"{data!r} is no file that can be read twice, as is needed")
    if path.is_symlink():
        raise SourceError(f"{data!r} is a link to what is not there")
    name = HUB_ID.fullmatch(data)
    if name is None or ending(path) in ENDINGS:
        raise SourceError(f"there is no file or folder {data!r}")
    from kfac_artifacts.sources.hub_data import read_hub  # noqa: PLC0415 - it is slow

    table, split = read_hub(name["id"], name["config"], split, wanted)
    return table, Description(name["id"], name["config"], split), Path()


def _of_images(found: ImageFolder, name: str) -> Table:
    """A table of paths and, where every image is in a subfolder, of these."""
    columns = {"image": found.names} | (
        {"label": found.classes} if found.classes else {}
    )
    return Table(
        name=name,
        names=tuple(columns),
        columns=columns,
        numbers=range(1, len(found.names) + 1),
        unit="image",
        notes=tuple(found.notes),
    )


def _open_file(
    path: Path, split: str | None, wanted: Callable[[str], bool], layout: Layout
) -> Table:
    if split is not None:
        raise SourceError(
            f"{path.name} is one file: it has no split {split!r} (--split)"
        )
    return read_table(path, wanted, layout)
