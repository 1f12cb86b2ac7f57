"""Directions in parameter space: random ones, gradients of other data, task vectors.

A direction is made anew for the parameters that are asked for, because several of the
size of a large model do not fit into memory.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Block
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.linearize import vjp
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.seeding import seeded
from kfac_artifacts.task_vector import TaskVector

BATCH = 8
"""Examples whose gradients one gradient direction is the mean of."""


class Direction(ABC):
    """A vector τ with a part for every parameter, or for some."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it among those of its kind."""

    @abstractmethod
    def parts(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Its parts for some parameters; where one is missing, it is zero."""


@final
@dataclass(frozen=True, eq=False)
class Random(Direction):
    """Independent standard normal entries.

    Attributes:
        network: The network, for the shapes of its parameters.
        seed: The seed.
        number: Number of the direction.
    """

    kind: ClassVar[str] = "random"

    network: Network
    seed: int
    number: int

    @property
    @override
    def name(self) -> str:
        return str(self.number)

    @override
    def parts(self, names: Sequence[str]) -> dict[str, Tensor]:
        shapes = self.network.shapes
        dtype = torch.promote_types(self.network.dtype, torch.float32)
        return {
            name: torch.randn(
                shapes[name], generator=self._generator(name), dtype=dtype
            ).to(self.network.device)
            for name in names
        }

    def _generator(self, name: str) -> torch.Generator:
        return seeded(f"{self.seed}:{self.number}:{name}")


@final
@dataclass(frozen=True, eq=False)
class Gradient(Direction):
    """The mean over a few examples of ``J(x)ᵀ r``, with one r of random signs for all.

    So are the gradients of a loss that would have f move the same way everywhere. No
    labels are used.

    Attributes:
        network: The pretrained network.
        examples: Data that the gradients are of.
        indices: The examples in use.
        seed: The seed of r.
        number: Number of the direction.
    """

    kind: ClassVar[str] = "gradient"

    network: Network
    examples: Examples
    indices: Sequence[int]
    seed: int
    number: int

    @property
    @override
    def name(self) -> str:
        return str(self.number)

    @override
    def parts(self, names: Sequence[str]) -> dict[str, Tensor]:
        batch = self.examples.batch(self.indices)
        with torch.no_grad():
            f = self.network(batch)
        generator = seeded(f"{self.seed}:{self.number}")
        signs = torch.randn(f.shape[1], generator=generator).sign().to(f)
        r = signs / (math.sqrt(f.shape[1]) * len(self.indices))
        return vjp(self.network, names, batch, r.expand_as(f))


@final
@dataclass(frozen=True, eq=False)
class Trained(Direction):
    """A task vector, as far as the artifact covers it.

    Attributes:
        called: What it is called.
        tensors: Its parts by parameter name.
    """

    kind: ClassVar[str] = "task-vector"

    called: str
    tensors: Mapping[str, Tensor]

    @property
    @override
    def name(self) -> str:
        return self.called

    @override
    def parts(self, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in names if name in self.tensors}


def gradients(
    network: Network, examples: Examples, indices: Sequence[int], seed: int
) -> list[Direction]:
    """Make gradient directions, one of every few examples.

    Args:
        network: The pretrained network.
        examples: Data that the gradients are of.
        indices: The examples in use.
        seed: The seed.

    Returns:
        The directions; the last is of fewer examples, if they do not come out even.
    """
    parts = [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]
    return [
        Gradient(network, examples, part, seed, number)
        for number, part in enumerate(parts)
    ]


def trained(
    network: Network, covered: Sequence[str], vectors: Mapping[str, TaskVector]
) -> list[Direction]:
    """Take task vectors as directions.

    Args:
        network: The pretrained network.
        covered: Parameters that the artifact covers; the others are left out.
        vectors: Task vectors by what they are called.

    Returns:
        The directions.

    Raises:
        MismatchError: If a task vector is of another model, or not covered at all.
    """
    for name, vector in vectors.items():
        vector.check_base(network)
        if set(covered).isdisjoint(vector.tensors):
            raise MismatchError(
                f"the artifact covers nothing of the task vector {name}, which moves "
                f"{', '.join(list(vector.tensors)[:3])}"
            )
    return [Trained(name, vector.tensors) for name, vector in vectors.items()]


def arrange(
    block: Block, parts: Mapping[str, Tensor], network: Network
) -> Tensor | None:
    """Arrange a direction's part in a block as ``W``; None where it has none."""
    if all(name not in parts for name in block.parameters):
        return None
    shapes = network.shapes
    found = next(parts[name] for name in block.parameters if name in parts)
    whole = {
        name: parts[name] if name in parts else found.new_zeros(shapes[name])
        for name in block.parameters
    }
    return block.gather(whole).to(network.device)
