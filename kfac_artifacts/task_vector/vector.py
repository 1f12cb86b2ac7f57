"""Task vectors ``τ = θ - θ0`` of one pretrained model, and their algebra."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kfac_artifacts.artifact import (
    BaseModel,
    Json,
    NamedConfig,
    require_base,
    require_shared_base,
)
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.format import dump_json, settled, write_durably, write_tensors
from kfac_artifacts.network import Network, parameter_info
from kfac_artifacts.places import new_directory
from kfac_artifacts.task_vector.head import Head
from kfac_artifacts.task_vector.head_tensors import head_info, head_of, head_tensors
from kfac_artifacts.task_vector.manifest import (
    MANIFEST,
    TENSORS,
    Manifest,
    announced,
    read_manifest,
    to_json,
)
from kfac_artifacts.task_vector.numbers import read_tensors, storable


@dataclass(frozen=True, eq=False)
class TaskVector:
    """What training added to some parameters of a pretrained model.

    Sums and multiples keep no head, settings or metrics: those were of one training.

    Attributes:
        tensors: The changes by parameter name; parameters without one did not move.
        base: The pretrained model, restricted to those parameters.
        output_map: The function f that was trained.
        head: The frozen classifier of the task.
        settings: How it was trained.
        metrics: What came out.
    """

    tensors: Mapping[str, Tensor]
    base: BaseModel
    output_map: NamedConfig | None = None
    head: Head | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    metrics: Mapping[str, Json] = field(default_factory=dict)

    def __repr__(self) -> str:
        count = sum(tensor.numel() for tensor in self.tensors.values())
        head = "no head" if self.head is None else repr(self.head)
        return (
            f"TaskVector(of {self.base.id!r:.60}, {len(self.tensors)} tensors, "
            f"{count:,} numbers, {head})"
        )

    def __post_init__(self) -> None:
        found = {name: tuple(t.shape) for name, t in self.tensors.items()}
        if found != self.base.shapes:
            wrong = {n for n, _ in found.items() ^ self.base.shapes.items()}
            raise MismatchError(
                f"the tensors of a task vector must be those of its base model; "
                f"{', '.join(sorted(wrong)[:5])} are not"
            )

    @property
    def sha256(self) -> str:
        """A hash of the changes alone: of their names, shapes and float32 numbers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            info = parameter_info(tensor)
            digest.update(f"{name} {list(info.shape)} {info.sha256}\n".encode())
        return digest.hexdigest()

    def __add__(self, other: "TaskVector") -> "TaskVector":
        """Add the changes; a parameter that one of them lacks did not move there."""
        base = joint_base(self.base, other.base)
        tensors = dict(self.tensors)
        for name, change in other.tensors.items():
            tensors[name] = tensors[name] + change if name in tensors else change
        same = self.output_map == other.output_map
        return TaskVector(tensors, base, self.output_map if same else None)

    def __mul__(self, alpha: float) -> "TaskVector":
        """Scale the changes."""
        tensors = {name: alpha * change for name, change in self.tensors.items()}
        return TaskVector(tensors, self.base, self.output_map)

    __rmul__ = __mul__

    def __neg__(self) -> "TaskVector":
        """Reverse the changes: added, they make the model forget."""
        return self * -1.0

    def check_base(self, network: Network) -> None:
        """Refuse another pretrained model, listing all differences.

        Args:
            network: Network to use the task vector with.

        Raises:
            MismatchError: If its parameters are not those of the base.
        """
        require_base("the task vector", self.base, network.base)

    def add_to(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give a state with the changes added to it, in the state's number types.

        Args:
            state: Tensors by parameter name; it is not changed.

        Returns:
            A new mapping that shares every tensor that did not move.

        Raises:
            MismatchError: If the state lacks a parameter.
        """
        missing = sorted(self.tensors.keys() - state.keys())
        if missing:
            raise MismatchError(
                f"cannot add a task vector of {self.base.id} to a state without "
                f"{', '.join(missing[:5])} ({len(missing)} missing)"
            )
        moved = dict(state)
        for name, change in self.tensors.items():
            moved[name] = _sum(state[name], change)
        return moved

    def apply(self, network: Network) -> None:
        """Add the changes to a network, in place.

        ``network.base`` goes on describing the pretrained model, so that another task
        vector of it may be added as well.

        Args:
            network: A network of the same base model.

        Raises:
            MismatchError: If it is of another base model.
        """
        self.check_base(network)
        parameters = network.parameters()
        with torch.no_grad():
            for name, change in self.tensors.items():
                parameters[name].copy_(_sum(parameters[name], change))

    def save(self, path: str | Path, *, replace: bool = False) -> None:
        """Write a directory that appears whole or not at all; numbers as float32.

        Args:
            path: The directory; links are followed.
            replace: Whether what this package wrote there may be replaced.

        Raises:
            PlaceError: If the place is taken or cannot be written.
            FormatError: If a number is not finite.
        """
        head = None if self.head is None else head_info(self.head)
        tensors = {f"tau/{n}": t for n, t in sorted(self.tensors.items())}
        if self.head is not None:
            tensors |= head_tensors(self.head)
        stored = {name: storable(name, tensor) for name, tensor in tensors.items()}
        with new_directory(path, replace=replace) as directory:
            infos = announced(self.base, head)
            file = write_tensors(directory / TENSORS, infos, stored.items())
            manifest = Manifest(
                self.base, self.output_map, head, self.settings, self.metrics, file
            )
            write_durably(directory / MANIFEST, dump_json(to_json(manifest)))

    @classmethod
    def load(cls, path: str | Path) -> "TaskVector":
        """Read a task vector, trusting nothing about the files.

        Args:
            path: The directory.

        Returns:
            The task vector, on the CPU.

        Raises:
            FormatError: If anything breaks ``spec/task_vector.md``.
        """
        directory = Path(path)
        return settled(directory, MANIFEST, functools.partial(cls._load, directory))

    @classmethod
    def _load(cls, directory: Path) -> "TaskVector":
        manifest = read_manifest(directory)
        tensors = read_tensors(directory / TENSORS, manifest.file, manifest.tensors)
        info = manifest.head
        return cls(
            {name: tensors[f"tau/{name}"] for name in manifest.base.parameters},
            manifest.base,
            manifest.output_map,
            None if info is None else head_of(info, tensors),
            manifest.settings,
            manifest.metrics,
        )


def joint_base(a: BaseModel, b: BaseModel) -> BaseModel:
    """Describe the parameters of two task vectors of one base model.

    Args:
        a: What one moved.
        b: What the other moved.

    Returns:
        Both.

    Raises:
        MismatchError: If they are of two base models.
    """
    disjoint = a.parameters.keys().isdisjoint(b.parameters)
    if not (disjoint and (a.id, a.revision) == (b.id, b.revision)):
        require_shared_base("cannot add task vectors of", a, b)
    return BaseModel(a.id, a.revision, {**a.parameters, **b.parameters})


def _sum(value: Tensor, change: Tensor) -> Tensor:
    dtype = torch.promote_types(value.dtype, change.dtype)
    return (value.to(dtype) + change.to(value.device, dtype)).to(value.dtype)
