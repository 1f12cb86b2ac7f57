"""A registry in a plain directory: who changes it waits for the others."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from kfac_artifacts.errors import FormatError, PlaceError, listed
from kfac_artifacts.format import MAX_JSON_BYTES, write_durably
from kfac_artifacts.hub import PlainAddress, read_card, read_plain
from kfac_artifacts.places import own_entries, turn_in
from kfac_artifacts.registry.entries import Entry
from kfac_artifacts.registry.index import INDEX, Index
from kfac_artifacts.registry.places import LOG, Plan, Registry, State, state_of

if TYPE_CHECKING:  # a pull needs no torch until something is merged
    from kfac_artifacts.artifact import Artifact

PATIENCE = 3600.0
"""Seconds to wait for others, each of whom may have much to merge."""


@dataclass(frozen=True)
class PlainRegistry(Registry):
    """A registry in a directory.

    Attributes:
        root: The directory.
    """

    root: Path

    @override
    def __str__(self) -> str:
        return str(self.root)

    @override
    @contextmanager
    def turn(self) -> Iterator[None]:
        with turn_in(self.root, patience=PATIENCE):
            others = own_entries(self.root)
            if others and INDEX not in others:
                raise PlaceError(
                    f"{self.root} holds other things than a registry "
                    f"({listed(others, 3)}); choose another place"
                )
            yield

    @override
    def state(self, *, now: bool = False) -> State:
        index = self._read(INDEX)
        folder = self.root / LOG
        files = own_entries(folder) if folder.is_dir() else []
        log = {name: partial(read_plain, folder / name) for name in files}
        card = read_card(self.root) if self.root.is_dir() else None
        return state_of(None, str(self.root), index, log, card)

    @override
    def fetch(
        self, path: str, entry: Entry, state: State, *, anew: bool = False
    ) -> "Artifact":
        from kfac_artifacts.format import load_artifact

        artifact = load_artifact(self.root / path)
        if artifact.digest != entry.digest:
            raise FormatError(
                f"{self.root / path} is not the artifact that {INDEX} names"
            )
        return artifact

    @override
    def put(self, plan: Plan, state: State) -> None:
        from kfac_artifacts.hub import push_to_directory

        if not state.exists:  # a run that is killed leaves a registry, too
            write_durably(self.root / INDEX, Index().to_bytes())
        for path, package in plan.packages.items():
            push_to_directory(package, PlainAddress(self.root / path))
        for path, text in plan.texts.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.root / path, text)
        for path in plan.gone:
            shutil.rmtree(self.root / path, ignore_errors=True)
        left = [str(self.root / p) for p in plan.gone if (self.root / p).exists()]
        if left:
            raise PlaceError(
                f"{listed(left, 3)} could not be deleted, and is in no total any more; "
                "delete it by hand"
            )

    @override
    def holds(self, path: str) -> list[str]:
        folder = self.root / path
        return own_entries(folder) if folder.is_dir() else []

    @override
    def read(self, path: str, state: State) -> bytes | None:
        file = self.root / path
        large = file.is_file() and file.stat().st_size > MAX_JSON_BYTES
        return None if large else self._read(path)

    @override
    def locate(self, path: str, entry: Entry, state: State) -> Path:
        return self.root / path

    def _read(self, name: str) -> bytes | None:
        try:
            return read_plain(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
