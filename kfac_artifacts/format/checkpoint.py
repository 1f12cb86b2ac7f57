"""Checkpoints that survive a kill at any moment: tensors first, then their name."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import FormatError, MismatchError
from kfac_artifacts.format.files import (
    dump_json,
    read_json,
    sha256_file,
    sync,
    write_durably,
)
from kfac_artifacts.json_object import JsonObject
from kfac_artifacts.places import plain_errors

FORMAT = "kfac-checkpoint"
VERSION = 2
CHECKPOINT_MANIFEST = "checkpoint.json"


@dataclass(frozen=True)
class State:
    """A long job after some steps.

    Attributes:
        step: How many steps are done.
        tensors: What was computed so far, by name.
        details: What else is needed to go on.
    """

    step: int
    tensors: Mapping[str, Tensor]
    details: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The directory of one job's checkpoint.

    Attributes:
        path: The directory.
        settings: What a job must share to go on from it.
        afresh: How to begin without it, in words for the user.
    """

    path: Path
    settings: Mapping[str, Json]
    afresh: str

    def save(self, state: State) -> None:
        """Write a state; until that is whole, the one before stays valid.

        Args:
            state: What is done so far.

        Raises:
            OSError: If the disk is full or fails; what was half written is removed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / f"step-{state.step}.safetensors"
        part = file.with_suffix(".part")
        try:
            with plain_errors(file):
                tensors = {n: t.contiguous() for n, t in state.tensors.items()}
                save_file(tensors, part)
            with part.open("rb") as written:
                sync(written.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        if file.exists():  # of another stage: its manifest must not name these tensors
            (self.path / CHECKPOINT_MANIFEST).unlink(missing_ok=True)
        part.replace(file)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "step": state.step,
            "details": state.details,
            "sha256": sha256_file(file),
        }
        write_durably(self.path / CHECKPOINT_MANIFEST, dump_json(manifest))
        for other in self._files():
            if other not in (file, self.path / CHECKPOINT_MANIFEST):
                other.unlink()

    def load(self) -> State | None:
        """Read the state of an interrupted job with the same settings.

        Returns:
            The state, or None if there is none.

        Raises:
            FormatError: If the checkpoint is damaged.
            MismatchError: If it is of a job with other settings.
        """
        found = self._read()
        if found is None:
            return None
        step, details, digest = found
        file = self.path / f"step-{step}.safetensors"
        if not file.is_file() or sha256_file(file) != digest:
            raise FormatError(f"the checkpoint {file} is damaged; {self.afresh}")
        loaded = load_file(file)
        # where it stands in the file decides in what order some processors add up
        return State(step, {n: t.clone() for n, t in loaded.items()}, details)

    def peek(self) -> State | None:
        """Read the state without its tensors; see ``load``."""
        found = self._read()
        return None if found is None else State(found[0], {}, found[1])

    def remove(self) -> None:
        """Remove what was saved, and the directory if nothing else is in it."""
        for file in self._files():
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def _files(self) -> list[Path]:
        """What belongs to a checkpoint, half-written files too."""
        patterns = (
            "step-*.safetensors",
            "step-*.part",
            CHECKPOINT_MANIFEST,
            f".{CHECKPOINT_MANIFEST}.*",
        )
        return [file for pattern in patterns for file in self.path.glob(pattern)]

    def _read(self) -> tuple[int, dict[str, Any], str] | None:
        if not (self.path / CHECKPOINT_MANIFEST).is_file():
            return None
        fields = JsonObject(
            read_json(self.path / CHECKPOINT_MANIFEST),
            str(self.path / CHECKPOINT_MANIFEST),
        )
        known = (fields.take("format", str), fields.count("version"))
        fields.require(
            known == (FORMAT, VERSION), f"{known} is not known here; {self.afresh}"
        )
        self._check(fields.take("settings", dict))
        step, details = fields.count("step", least=0), fields.take("details", dict)
        return step, details, fields.sha256("sha256")

    def _check(self, found: dict[str, Any]) -> None:
        ours, theirs = _flat(self.settings), _flat(found)
        wrong = [
            f"{key} was {theirs.get(key)}, is {ours.get(key)}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
        if wrong:
            raise MismatchError(
                f"{self.path} is of an interrupted job with other settings: "
                f"{'; '.join(wrong)}. Go on with those, or {self.afresh}"
            )


def _flat(value: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, Any]:
    """Name every leaf by its path, for a comparison that people can read."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, item in items:
        name = f"{prefix}{key}"
        if isinstance(item, Mapping | list | tuple):
            flat |= _flat(item, f"{name}.")
        else:
            flat[name] = item
    return flat
