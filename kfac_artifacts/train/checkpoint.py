"""Checkpoints that survive a kill at any moment: tensors first, then their name."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import FormatError, MismatchError
from kfac_artifacts.format.fields import Fields
from kfac_artifacts.format.files import (
    dump_json,
    read_json,
    sha256_file,
    sync,
    write_durably,
)

FORMAT = "kfac-checkpoint"
VERSION = 1
MANIFEST = "checkpoint.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """A training after some steps.

    Attributes:
        step: How many steps are done.
        recent: Loss and accuracy of the last steps.
        tensors: τ and the moments of AdamW, each by name.
    """

    step: int
    recent: list[tuple[float, float]]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The directory of one training's checkpoint.

    Attributes:
        path: The directory.
        settings: What a training must share to go on from it.
    """

    path: Path
    settings: Mapping[str, Json]

    def save(self, state: State) -> None:
        """Write a state; until that is whole, the one before stays valid."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / f"step-{state.step}.safetensors"
        save_file(dict(state.tensors), file)
        with file.open("rb") as written:
            sync(written.fileno())
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "step": state.step,
            "recent": state.recent,
            "sha256": sha256_file(file),
        }
        write_durably(self.path / MANIFEST, dump_json(manifest))
        for other in self.path.iterdir():
            if other not in (file, self.path / MANIFEST):
                other.unlink()

    def load(self) -> State | None:
        """Read the state of an interrupted training with the same settings.

        Returns:
            The state, or None if there is none.

        Raises:
            FormatError: If the checkpoint is damaged.
            MismatchError: If it is of a training with other settings.
        """
        if not (self.path / MANIFEST).is_file():
            return None
        fields = Fields(read_json(self.path / MANIFEST), str(self.path / MANIFEST))
        known = (fields.take("format", str), fields.count("version"))
        fields.require(known == (FORMAT, VERSION), f"{known} is not known here")
        self._check(fields.take("settings", dict))
        step, recent = fields.count("step"), fields.take("recent", list)
        file, digest = self.path / f"step-{step}.safetensors", fields.sha256("sha256")
        if not file.is_file() or sha256_file(file) != digest:
            raise FormatError(f"the checkpoint {file} is damaged; begin with --restart")
        return State(step, [(x, y) for x, y in recent], load_file(file))

    def remove(self) -> None:
        """Remove the directory, if it is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _check(self, found: dict[str, Any]) -> None:
        ours, theirs = _flat(self.settings), _flat(found)
        wrong = [
            f"{key} was {theirs.get(key)}, is {ours.get(key)}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
        if wrong:
            raise MismatchError(
                f"{self.path} is of an interrupted training with other settings: "
                f"{'; '.join(wrong)}. Go on with those, or begin with --restart"
            )


def capture(
    tau: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Collect τ and the moments of AdamW, on the CPU."""
    tensors: dict[str, Tensor] = {}
    for name, value in tau.items():
        tensors[f"tau/{name}"] = value.detach().cpu()
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[value][moment].cpu()
    return tensors


def restore(
    state: State, tau: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Put τ and the moments of AdamW back in place."""
    for name, value in tau.items():
        with torch.no_grad():
            value.copy_(state.tensors[f"tau/{name}"])
        moments = {
            m: state.tensors[f"{m}/{name}"].to(value.device, copy=True) for m in MOMENTS
        }
        optimizer.state[value] = {"step": torch.tensor(float(state.step)), **moments}


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
