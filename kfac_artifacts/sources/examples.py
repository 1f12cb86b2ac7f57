"""Examples of text and of images, encoded when a batch of them is asked for.

A fingerprint is the sha256 of the examples that were used, in order. A text adds the
line ``json([index, text, ...])``; an image adds the line ``json([index, width,
height])`` and then its pixels as RGB bytes, rows first. JSON is written in ASCII.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from kfac_artifacts.artifact import DataInfo, Json, Named
from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.columns import Labels
from kfac_artifacts.sources.encode import ImageEncoder
from kfac_artifacts.sources.pixels import UnreadableImage, read_rgb
from kfac_artifacts.sources.texts import TextEncoder


@dataclass(frozen=True)
class Description:
    """What a dataset is called: its Hub id, or the name of a file or folder."""

    id: str
    config: str | None = None
    split: str | None = None

    def info(
        self, digest: str, examples: int, size: int, preprocessing: Named
    ) -> DataInfo:
        """Say which examples were used, by fingerprint, and how."""
        return DataInfo(
            id=self.id,
            config=self.config,
            split=self.split,
            fingerprint=digest,
            examples=examples,
            size=size,
            preprocessing=preprocessing,
        )


class _Labelled:
    """What examples say of their labels, if these were asked for."""

    known_labels: Labels

    @property
    def labels(self) -> Sequence[int]:
        """Class of every example."""
        return self.known_labels.indices

    @property
    def classes(self) -> Sequence[str]:
        """Name of every class."""
        return self.known_labels.classes


@dataclass(frozen=True, eq=False)
class TextExamples(_Labelled):
    """Rows of texts, or of pairs of texts; all are there and none is empty.

    Attributes:
        rows: A table of the ``datasets`` library.
        columns: One column of texts, or two that form a pair.
        encoder: From texts to a batch.
        description: What the dataset is called.
        known_labels: Labels, if they were asked for.
    """

    rows: Any
    columns: tuple[str, ...]
    encoder: TextEncoder
    description: Description
    known_labels: Labels = field(default_factory=Labels)

    def __post_init__(self) -> None:
        for column in self.columns:
            empty = [
                i
                for i, t in enumerate(self.rows[column][:])
                if t is None or not t.strip()
            ]
            if empty:
                raise SourceError(
                    f"{self.description.id}: {len(empty)} texts in column {column!r} "
                    f"are empty, the first is number {empty[0]}; remove these rows"
                )

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, indices: Sequence[int]) -> list[tuple[str, ...]]:
        """Read some rows, one text per column."""
        chosen = self.rows[list(indices)]
        return list(zip(*(chosen[column] for column in self.columns), strict=True))

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Encode some examples, padded on the right to the longest."""
        return self.encoder(self.texts(indices))

    def info(self, indices: Sequence[int]) -> DataInfo:
        """Describe the dataset, and fingerprint the examples that were used."""
        digest = hashlib.sha256()
        for index, row in zip(indices, self.texts(indices), strict=True):
            digest.update(f"{json.dumps([index, *row])}\n".encode())
        columns: list[Json] = list(self.columns)
        how = Named("text", {"columns": columns, **self.encoder.configuration})
        return self.description.info(digest.hexdigest(), len(indices), len(self), how)


@dataclass(frozen=True, eq=False)
class ImageExamples(_Labelled):
    """Images, read when they are used.

    Attributes:
        rows: A table of the ``datasets`` library.
        column: The column of images, or of paths to images.
        encoder: From images to a batch.
        description: What the dataset is called.
        known_labels: Labels, if they were asked for.
        folder: What paths in the table are relative to.
    """

    rows: Any
    column: str
    encoder: ImageEncoder
    description: Description
    known_labels: Labels = field(default_factory=Labels)
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, indices: Sequence[int]) -> list[Image.Image]:
        """Read some images as RGB; see ``pixels``."""
        rows = self.rows.select_columns([self.column])
        rows = rows.with_format("arrow")[list(indices)][self.column].to_pylist()
        return [
            self._decode(index, value)
            for index, value in zip(indices, rows, strict=True)
        ]

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
        how = Named("image", {"column": self.column, **self.encoder.configuration})
        return self.description.info(digest.hexdigest(), len(indices), len(self), how)

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
