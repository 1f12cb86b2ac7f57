"""What a suite keeps: everything under a key of all that decides it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfac_artifacts.artifact import Json
from kfac_artifacts.canonical import digest_of
from kfac_artifacts.errors import PlaceError
from kfac_artifacts.format import dump_json, write_durably

MARKER = "kfac_suite.json"
VERSION = 1
"""Raised when the same declaration would give other numbers than before."""
DIGITS = 16


class Store:
    """A directory in which nothing is computed twice.

    Args:
        root: The directory; it is made if need be.

    Raises:
        PlaceError: If something else than a suite is there.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        marker = self.root / MARKER
        if self.root.is_dir() and any(self.root.iterdir()) and not marker.is_file():
            raise PlaceError(
                f"{self.root} is not empty, and not of a suite; choose a directory of "
                "its own"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        if not marker.is_file():
            write_durably(marker, dump_json({"format": "kfac-suite"}))

    def place(self, kind: str, about: Json) -> Path:
        """Where something is kept that ``about`` decides.

        Args:
            kind: A folder: ``curvature``, ``vectors``, ``scores``.
            about: Everything that its numbers depend on.

        Returns:
            A path; what made it is beside it as JSON, for people.
        """
        key = digest_of({"version": VERSION, "about": about}).partition(":")[2][:DIGITS]
        folder = self.root / kind
        folder.mkdir(exist_ok=True)
        note = folder / f"{key}.about.json"
        if not note.is_file():
            write_durably(note, dump_json(about))
        return folder / key

    def scores(self, about: Json, measure: Callable[[], dict[str, Json]]) -> Any:
        """Read numbers that were kept, or measure and keep them."""
        path = self.place("scores", about).with_suffix(".json")
        if not path.is_file():
            write_durably(path, dump_json(measure()))
        return json.loads(path.read_text("utf-8"))

    def counts(self, about: Json) -> dict[float, int]:
        """Read the right answers that were kept, by factor; none, if none were."""
        path = self.place("counts", about).with_suffix(".json")
        if not path.is_file():
            return {}
        return dict(json.loads(path.read_text("utf-8")))

    def keep_counts(self, about: Json, right: Mapping[float, int]) -> None:
        """Keep right answers by factor, in the place of those that were."""
        path = self.place("counts", about).with_suffix(".json")
        write_durably(path, dump_json([[alpha, n] for alpha, n in right.items()]))
