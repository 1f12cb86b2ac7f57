"""Processes that compute together: each sees its share of the examples.

Without sharding every process keeps all sums, and they are joined once at the end. With
it (for models whose factors do not fit on one device) a sum lives on one owner alone,
and every process sends its part of each batch there.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kfac_artifacts.estimate.triangle import upper_panels
from kfac_artifacts.factors import Factor

BUCKET = 2**24
"""Numbers that are sent at once: 64 MiB of float32."""


@dataclass(frozen=True)
class Workers:
    """This process and its fellows.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        sharded: Whether a sum lives on its owner alone.
        owners: Which process owns which sum, if sharded.
        device: Where tensors are that travel between processes.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False
    owners: Mapping[str, int] = field(default_factory=dict)
    device: torch.device | str = "cpu"

    @classmethod
    def gather(cls, device: torch.device) -> "Workers":
        """Find the processes that ``torchrun`` or ``accelerate launch`` has started."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            from accelerate import PartialState  # noqa: PLC0415 - only where needed

            PartialState()  # it knows which backend belongs to which device
        if not (dist.is_available() and dist.is_initialized()):
            return cls(device=device)
        return cls(dist.get_rank(), dist.get_world_size(), device=device)

    def deal(self, shapes: Mapping[str, tuple[int, ...]]) -> "Workers":
        """The same processes, each the owner of its part of the sums by size."""
        load = [0] * self.size
        owners = {}
        for name, shape in sorted(shapes.items(), key=lambda item: -prod(item[1])):
            owners[name] = load.index(min(load))
            load[owners[name]] += prod(shape)
        return replace(self, sharded=True, owners=owners)

    @property
    def main(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    def holds(self, name: str) -> bool:
        """Whether a sum lives here."""
        return not self.sharded or self.owners[name] == self.rank

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add up the tensors of all processes, in place, unless they are sharded."""
        if self.size == 1 or self.sharded:
            return
        for bucket in _buckets(tensors.values()):
            flat = torch.cat([part.reshape(-1) for part in bucket])
            dist.all_reduce(flat)
            sent = flat.split([part.numel() for part in bucket])
            for part, values in zip(bucket, sent, strict=True):
                part.copy_(values.view_as(part))

    def reduce_to_owner(self, name: str, part: Tensor) -> None:
        """Add up a part at the owner, in place there."""
        if self.size > 1:
            dist.reduce(part, self.owners[name])

    def sum(self, value: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def share(self, name: str, factor: Factor | None) -> Factor:
        """Give a factor to all processes, if only its owner has it."""
        if not self.sharded or self.size == 1:
            assert factor is not None  # noqa: S101 - every process has it
            return factor
        return _broadcast(factor, self.owners[name], self.device)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Collect views of what has to be sent: of a matrix, the panels of its triangle."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        for part in upper_panels(tensor) if tensor.dim() == 2 else [tensor]:
            if bucket and (
                size + part.numel() > BUCKET or part.dtype != bucket[0].dtype
            ):
                yield bucket
                bucket, size = [], 0
            bucket.append(part)
            size += part.numel()
    if bucket:
        yield bucket


def _broadcast(
    factor: Factor | None, source: int, device: torch.device | str
) -> Factor:
    fields = {} if factor is None else factor.tensors()
    described: list[Any] = [
        (type(factor), {n: (t.shape, t.dtype) for n, t in fields.items()})
    ]
    dist.broadcast_object_list(described, source)
    kind, infos = described[0]
    tensors = {
        name: fields[name] if fields else torch.empty(shape, dtype=dtype, device=device)
        for name, (shape, dtype) in infos.items()
    }
    for tensor in tensors.values():
        dist.broadcast(tensor, source)
    shared: Factor = kind(**tensors)
    return shared
