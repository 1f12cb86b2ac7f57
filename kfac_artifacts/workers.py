"""Processes that compute together: each sees its share of the examples.

Without sharding every process keeps all sums, and they are joined once at the end. With
it (for models whose factors do not fit on one device) a sum lives on one owner alone,
and every process sends its part of each batch there.

Processes wait for one another whenever they send, so all must send the same, in the
same order. A failure of one reaches the others at the next place where all meet:
after a stage, or when sharded after a step of a batch.
"""

import atexit
import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib import import_module
from math import prod
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kfac_artifacts.errors import KfacError, MismatchError
from kfac_artifacts.factors import Factor
from kfac_artifacts.symmetric import upper_panels

T = TypeVar("T")

BUCKET = 2**24
"""Numbers that are sent at once: 64 MiB of float32."""
DEFAULTS_TO_GROUP = "torch.distributed.nn.functional"
"""FSDP imports it; its functions keep the group, if there is one then, for good."""
PATIENCE = timedelta(hours=1)
"""How long a process may keep the others waiting: one may write a large artifact."""


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
    def gather(cls, device: torch.device | str) -> "Workers":
        """Find the processes that ``torchrun`` or ``accelerate launch`` has started."""
        if not dist.is_available():
            return cls(device=device)
        start_processes()
        if not dist.is_initialized():
            return cls(device=device)
        return cls(dist.get_rank(), dist.get_world_size(), device=device)

    def assign_owners(self, shapes: Mapping[str, tuple[int, ...]]) -> "Workers":
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

    def all_reduce(self, tensors: Mapping[str, Tensor]) -> None:
        """Add up the tensors of all processes, in place, unless they are sharded."""
        if self.size == 1 or self.sharded:
            return
        for bucket in _buckets(tensors.values()):
            flat = torch.cat([part.reshape(-1) for part in bucket])
            with sending():
                dist.all_reduce(flat)
            _spread(flat, bucket)

    def reduce_to_owner(self, name: str, part: Tensor) -> None:
        """Add up a part at the owner, in place there; of a matrix its upper half."""
        if self.size == 1:
            return
        views = list(_views(part))
        flat = torch.cat([view.reshape(-1) for view in views])
        with sending():
            dist.reduce(flat, self.owners[name])
        if self.holds(name):
            _spread(flat, views)

    def sum(self, value: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.size > 1:
            with sending():
                dist.all_reduce(value)
        return value

    def broadcast_factor(self, name: str, factor: Factor | None) -> Factor:
        """Give a factor to all processes, if only its owner has it."""
        if not self.sharded or self.size == 1:
            assert factor is not None  # noqa: S101 - every process has it
            return factor
        source = self.owners[name]
        kind: Any = self.copy_of(type(factor), source)
        fields = self.broadcast({} if factor is None else factor.tensors(), source)
        shared: Factor = kind(**fields)
        return shared

    def broadcast(
        self, tensors: Mapping[str, Tensor], source: int
    ) -> dict[str, Tensor]:
        """Give the tensors of one process to all, on the device."""
        infos = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        found = {}
        for name, (shape, dtype) in self.copy_of(infos, source).items():
            if self.rank == source:
                found[name] = tensors[name].to(self.device).contiguous()
            else:
                found[name] = torch.empty(shape, dtype=dtype, device=self.device)
            with sending():
                dist.broadcast(found[name], source)
        return found

    def copy_of(self, value: T, source: int = 0) -> T:
        """A small object of one process, on all: that of the main one, or another."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with sending():
            dist.broadcast_object_list(box, source)
        return box[0]

    def all_of(self, value: T) -> list[T]:
        """The small objects of all processes, by rank."""
        if self.size == 1:
            return [value]
        boxes: list[Any] = [None] * self.size
        with sending():
            dist.all_gather_object(boxes, value)
        return boxes

    def stage(self) -> AbstractContextManager[None]:
        """A stage that sends nothing unless sharded: it fails for all, or for none."""
        return nullcontext() if self.sharded else self.together()

    def step(self) -> AbstractContextManager[None]:
        """A part of a batch that sends nothing; if sharded it fails for all or none."""
        return self.together() if self.sharded else nullcontext()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let what one process fails at be a failure of all; nothing is sent inside.

        Yields:
            Nothing.

        Raises:
            KfacError: If another process has failed.
        """
        try:
            yield
        except Exception as error:
            self.all_of(f"{error}" or type(error).__name__)
            raise
        for rank, message in enumerate(self.all_of("")):
            if message:
                raise KfacError(f"process {rank} failed: {message}")

    def require_alike(self, values: Mapping[str, object]) -> None:
        """Refuse to compute together unless every process was given the same.

        Args:
            values: What must be the same, by what it is called.

        Raises:
            MismatchError: If something differs, with its name.
        """
        given = self.all_of({name: repr(value) for name, value in values.items()})
        for rank, theirs in enumerate(given):
            wrong = [name for name in given[0] if theirs[name] != given[0][name]]
            if wrong:
                raise MismatchError(
                    f"process {rank} was given another job than process 0: they differ "
                    f"in {', '.join(wrong)}"
                )


def start_processes() -> None:
    """Meet the other processes, if a launcher has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    import_module(DEFAULTS_TO_GROUP)
    dist.init_process_group(backend, timeout=PATIENCE)
    atexit.register(_part)


def _part() -> None:
    """Leave the others before the interpreter ends.

    The threads of a group end with the last that refers to it; the interpreter aborts
    if it ends before them. What FSDP has split refers to it, in circles.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def sending() -> Iterator[None]:
    """Explain it if other processes cannot be reached.

    Yields:
        Nothing.

    Raises:
        KfacError: If they cannot.
    """
    try:
        yield
    except RuntimeError as error:
        raise KfacError(
            f"the other processes cannot be reached; look what they say: {error}"
        ) from error


def _views(tensor: Tensor) -> Iterable[Tensor]:
    """What has to be sent: of a matrix, the panels of its upper triangle."""
    return upper_panels(tensor) if tensor.dim() == 2 else [tensor]


def _spread(flat: Tensor, views: list[Tensor]) -> None:
    sent = flat.split([view.numel() for view in views])
    for view, values in zip(views, sent, strict=True):
        view.copy_(values.view_as(view))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Collect views of what has to be sent."""
    bucket: list[Tensor] = []
    size = 0
    for part in (view for tensor in tensors for view in _views(tensor)):
        full = size + part.numel() > BUCKET
        if bucket and (full or part.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(part)
        size += part.numel()
    if bucket:
        yield bucket
