"""Where a parameter of a network is stored in its checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.sources.checkpoint.probe import Probe, addresses
from kfac_artifacts.sources.checkpoint.shards import Checkpoint


class Place(ABC):
    """Where the numbers of one parameter are stored."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the stored tensors that hold them."""

    @abstractmethod
    def read(self, checkpoint: Checkpoint) -> Tensor:
        """Read the parameter as the network has it, in float32."""

    @abstractmethod
    def changes(self, change: Tensor) -> Iterator[tuple[str, Tensor | None, Tensor]]:
        """Say what a change of the parameter adds to every stored tensor.

        Args:
            change: What is added to the parameter.

        Yields:
            Name of the stored tensor, which of its numbers in its own order (None for
            all), and what is added to them, in that order.
        """


@dataclass(frozen=True)
class Whole(Place):
    """A stored tensor that is the parameter as it is.

    Attributes:
        name: Name of the stored tensor.
        copies: Others that are tied to it: equal, and to be kept so.
    """

    name: str
    copies: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:  # noqa: D102
        return (self.name, *self.copies)

    def read(self, checkpoint: Checkpoint) -> Tensor:  # noqa: D102
        return checkpoint.read(self.name).float()

    def changes(  # noqa: D102
        self, change: Tensor
    ) -> Iterator[tuple[str, Tensor | None, Tensor]]:
        for name in self.names:
            yield name, None, change.reshape(-1)


@dataclass(frozen=True, eq=False)
class Parts(Place):
    """Numbers of stored tensors that loading stacks, cuts, transposes or permutes.

    Attributes:
        parameter: The parameter, each of its numbers the address of where it is stored.
        probe: What the addresses are about.
    """

    parameter: Tensor
    probe: Probe

    @property
    def names(self) -> tuple[str, ...]:  # noqa: D102
        return tuple(name for name, _, _ in self._pieces())

    def read(self, checkpoint: Checkpoint) -> Tensor:  # noqa: D102
        value = torch.empty(self.parameter.numel())
        for name, stored, own in self._pieces():
            value[own] = checkpoint.read(name).reshape(-1)[stored].float()
        return value.reshape(self.parameter.shape)

    def changes(  # noqa: D102
        self, change: Tensor
    ) -> Iterator[tuple[str, Tensor | None, Tensor]]:
        for name, stored, own in self._pieces():
            yield name, stored, change.reshape(-1)[own]

    def _pieces(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Stored tensors, which of their numbers, and which of the parameter's."""
        names = [n for n, t in self.probe.tensors.items() if t.numel()]
        bounds = torch.tensor([self.probe.starts[name] for name in names])
        found, own = addresses(self.parameter).sort()
        owners = torch.bucketize(found, bounds, right=True) - 1
        used, counts = owners.unique_consecutive(return_counts=True)
        start = 0
        for owner, count in zip(used.tolist(), counts.tolist(), strict=True):
            part = slice(start, start + count)
            yield names[owner], found[part] - bounds[owner], own[part]
            start += count
