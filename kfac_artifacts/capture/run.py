"""Passes over the sample: each batch once forward, and once back for each cotangent."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kfac_artifacts.capture.events import Listener, ListenerToSeveral
from kfac_artifacts.capture.hooks import Pass
from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.proof import Coverage
from kfac_artifacts.capture.sample import Loaded, Sample
from kfac_artifacts.errors import CoverageError, KfacError
from kfac_artifacts.kernels import forward_mode_kernels
from kfac_artifacts.network import Network
from kfac_artifacts.progress import Progress, silent
from kfac_artifacts.workers import Workers

ROOM, ROOM_CPU = 2**24, 2**20
"""Most numbers that the largest of the cotangents pulled back at once may have: 64 MiB
of float32, and on a CPU 4 MiB, beyond which nothing is gained."""


@runtime_checkable
class BatchListener(Listener, Protocol):
    """Hears the ends of passes, too."""

    out_of_examples: bool
    """Whether a pass counts for nothing, because no examples are left."""

    def end_of_forward(self) -> None:
        """The forward pass is over."""

    def end_of_backward(self) -> None:
        """A backward pass is over."""


@dataclass(frozen=True)
class Run:
    """What passes over the data need.

    Attributes:
        network: The network, its parameters frozen.
        coverage: The proved layers.
        sample: The examples and their cotangents.
        workers: The processes that compute together.
        progress: Shows how far it is.
    """

    network: Network
    coverage: Coverage
    sample: Sample
    workers: Workers
    progress: Progress = silent

    def passes(
        self,
        listener: BatchListener,
        layers: Sequence[Layer],
        stage: str,
        start: int = 0,
        *,
        forward_only: bool = False,
    ) -> Generator[Loaded, None, None]:
        """Pass over this process's examples, batch by batch.

        Args:
            listener: Hears every input and cotangent at the layers.
            layers: Layers to listen to; may be fewer from one batch to the next.
            stage: What to call it while showing progress.
            start: Where to begin: the ``done`` of the last batch that is done.
            forward_only: Whether the listener is told of inputs alone, and no gradient
                is made.

        Yields:
            Each batch, after its passes.

        Raises:
            KfacError: If a batch does not do what the first one did, or its output is
                not finite.
        """
        share = len(self.sample.ordinals)
        draws = self.sample.cotangents.draws
        several = isinstance(listener, ListenerToSeveral) and draws != 1
        several = several and not self.workers.sharded  # sums travel batch by batch
        chunks = _Chunks(wanted=several)
        with self.progress(stage, share) as advance:
            advance(min(start, share))
            batches = self.sample.batches(start, even=self.workers.sharded)
            while True:
                with self.workers.step():
                    loaded = next(batches, None)
                if loaded is None:
                    return
                listener.out_of_examples = not loaded.ordinals
                if forward_only:
                    self._forward(listener, layers, loaded, forward_only=True).close()
                else:
                    self._one_batch(listener, layers, loaded, chunks)
                advance(len(loaded.ordinals))
                yield loaded

    def _one_batch(
        self,
        listener: BatchListener,
        layers: Sequence[Layer],
        loaded: Loaded,
        chunks: "_Chunks",
    ) -> None:
        with chunks.kernels():
            passed = self._forward(listener, layers, loaded)
        ordinals = loaded.ordinals or [0] * len(passed.f)
        left = self.sample.count(ordinals, passed.f)
        vectors = self.sample.vectors(ordinals, passed.f)
        for chunk in _chunked(vectors, chunks.size(passed)):
            left -= len(chunk)
            if len(chunk) == 1:
                found = [g[None] for g in passed.backward(chunk[0], last=left == 0)]
            else:
                found = passed.backward_several(torch.stack(chunk), last=left == 0)
            self.keep_gradients(loaded, found)
            listener.end_of_backward()

    def keep_gradients(self, loaded: Loaded, gradients: Sequence[Tensor]) -> None:
        """Hear the gradients of the batch's tensors that require them; here of none.

        Args:
            loaded: The batch.
            gradients: Those of each tensor, ``[K, *shape]``, for the next K cotangents.
        """

    def _forward(
        self,
        listener: BatchListener,
        layers: Sequence[Layer],
        loaded: Loaded,
        *,
        forward_only: bool = False,
    ) -> Pass:
        passed = Pass(self.network, layers, loaded.batch, listener)
        passed.forward(forward_only=forward_only)
        with self.workers.step():
            self._check(passed, layers, loaded)
        listener.end_of_forward()
        return passed

    def _check(self, passed: Pass, layers: Sequence[Layer], loaded: Loaded) -> None:
        """Compare what a batch did with what the first one did."""
        for layer, reason in passed.failures.items():
            raise KfacError(f"{layer.name}: {reason}")
        _check_finite(
            passed.f, [self.sample.indices[ordinal] for ordinal in loaded.ordinals]
        )
        for layer in layers:
            expected, found = (
                self.coverage.call_counts[layer],
                passed.call_counts[layer],
            )
            if found != expected:
                raise CoverageError(
                    f"{layer.name} is used {found} times in this batch, "
                    f"but {expected} times in the first; exclude it"
                )


@dataclass
class _Chunks:
    """How many cotangents are pulled back at once; settled on the first batch.

    Attributes:
        wanted: Whether it may be more than one.
        tried: Whether the network was seen to allow it.
    """

    wanted: bool
    tried: bool = False

    def kernels(self) -> AbstractContextManager[None]:
        """Select kernels whose backward pass can be batched."""
        return forward_mode_kernels() if self.wanted else nullcontext()

    def size(self, passed: Pass) -> int:
        """How many cotangents of this batch to pull back at once."""
        room = ROOM_CPU if passed.f.device.type == "cpu" else ROOM
        size = max(1, room // max(passed.largest, passed.f.numel()))
        if self.wanted and not self.tried:
            self.wanted, self.tried = size > 1 and passed.takes_several(), True
        return size if self.wanted else 1


def _chunked(vectors: Iterator[Tensor], size: int) -> Iterator[list[Tensor]]:
    while chunk := list(islice(vectors, size)):
        yield chunk


def _check_finite(f: Tensor, indices: Sequence[int]) -> None:
    if bool(f.detach().sum().isfinite()):  # which is quick, and true of finite numbers
        return  # unless they are so large that only a closer look can tell
    finite = f.detach().isfinite().all(dim=1)
    if not bool(finite.all()):
        places = enumerate(finite.tolist())
        bad = [indices[i] if indices else i for i, good in places if not good]
        raise KfacError(
            f"the model's output is not finite for example {bad[0]} (and "
            f"{len(bad) - 1} more); try --dtype float32, or look at the example"
        )
