"""Examples of text and of images, encoded when a batch of them is asked for.

A fingerprint is the sha256 of the examples that were used, in order. A text adds the
line ``json([index, text, ...])``; an image adds the line ``json([index, width,
height])`` and then its pixels as RGB bytes, rows first. JSON is written in ASCII.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import DataInfo, Json, NamedConfig
from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.description import Description
from kfac_artifacts.sources.labels import Labels
from kfac_artifacts.sources.pixels import UnreadableImage, read_rgb
from kfac_artifacts.sources.tables import Table


@runtime_checkable
class Encoder(Protocol):
    """From rows of texts, or images, to a batch."""

    def __call__(self, rows: Sequence[Any], /) -> dict[str, Tensor]:
        """Encode them."""

    @property
    def configuration(self) -> dict[str, Json]:
        """How, as recorded in artifacts."""


class _FromTable(ABC):
    """What examples from a table say of it, and of their labels."""

    rows: Table
    description: Description
    known_labels: Labels

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Sequence[int]:
        """Class of every example."""
        return self.known_labels.indices

    @property
    def classes(self) -> Sequence[str]:
        """Name of every class."""
        return self.known_labels.classes

    @property
    @abstractmethod
    def used_columns(self) -> tuple[str, ...]:
        """The columns that are encoded."""

    def account(self, used: int | None = None) -> str:
        """Say what was read, and how many rows of it are used."""
        labels = self.known_labels
        found = len(set(labels.indices))
        return self.rows.account(self.used_columns, labels.column, used, found)

    def _info(self, digest: str, examples: int, how: NamedConfig) -> DataInfo:
        return DataInfo(
            id=self.description.id,
            config=self.description.config,
            split=self.description.split,
            fingerprint=digest,
            examples=examples,
            size=len(self),
            preprocessing=how,
        )


@dataclass(frozen=True, eq=False)
class TextExamples(_FromTable):
    """Rows of texts, of pairs of texts or of conversations; none is empty.

    Attributes:
        rows: The table.
        columns: One column of texts or conversations, or two that form a pair.
        encoder: From texts to a batch.
        description: What the dataset is called.
        known_labels: Labels, if they were asked for.
    """

    rows: Table
    columns: tuple[str, ...]
    encoder: Encoder
    description: Description
    known_labels: Labels = field(default_factory=Labels)

    @property
    @override
    def used_columns(self) -> tuple[str, ...]:
        return self.columns

    def texts(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """Read some rows, one text (or conversation) per column."""
        columns = [self.rows.columns[name] for name in self.columns]
        return [tuple(column[i] for column in columns) for i in indices]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Encode some examples, padded on the right to the longest."""
        return self.encoder(self.texts(indices))

    def info(self, indices: Sequence[int]) -> DataInfo:
        """Describe the dataset, and fingerprint the examples that were used."""
        digest = hashlib.sha256()
        for index, row in zip(indices, self.texts(indices), strict=True):
            digest.update(f"{json.dumps([index, *row])}\n".encode())
        columns: list[Json] = list(self.columns)
        how = NamedConfig("text", {"columns": columns, **self.encoder.configuration})
        return self._info(digest.hexdigest(), len(indices), how)


@dataclass(frozen=True, eq=False)
class ImageExamples(_FromTable):
    """Images, read when they are used.

    Attributes:
        rows: The table.
        column: The column of images, or of paths to images.
        encoder: From images to a batch.
        description: What the dataset is called.
        known_labels: Labels, if they were asked for.
        folder: What paths in the table are relative to.
    """

    rows: Table
    column: str
    encoder: Encoder
    description: Description
    known_labels: Labels = field(default_factory=Labels)
    folder: Path = Path()

    @property
    @override
    def used_columns(self) -> tuple[str, ...]:
        return (self.column,)

    def images(self, indices: Sequence[int]) -> list[Image.Image]:
        """Read some images as RGB; see ``pixels``."""
        values = self.rows.columns[self.column]
        return [self._decode(index, values[index]) for index in indices]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Encode some examples."""
        return self.encoder(self.images(indices))

    def info(self, indices: Sequence[int]) -> DataInfo:
        """Describe the dataset, and fingerprint the examples that were used."""
        digest = hashlib.sha256()
        for index in indices:
            (image,) = self.images([index])
            digest.update(f"{json.dumps([index, *image.size])}\n".encode())
            digest.update(image.tobytes())
        how = NamedConfig(
            "image", {"column": self.column, **self.encoder.configuration}
        )
        return self._info(digest.hexdigest(), len(indices), how)

    def _decode(self, index: int, value: Any) -> Image.Image:
        stored = value if isinstance(value, dict) else {"path": value}
        path, content = self.folder / (stored.get("path") or ""), stored.get("bytes")
        try:
            return read_rgb(path if content is None else content)
        except UnreadableImage as error:
            name = "/".join(Path(stored.get("path") or "no name").parts[-2:])
            raise SourceError(
                f"{self.description.id}: image {index} ({name}) cannot be read: {error}"
            ) from error
