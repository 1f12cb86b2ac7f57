"""Saving what an estimation has done, now and then, and going on from there."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.estimate.options import Job
from kfac_artifacts.estimate.workers import Workers
from kfac_artifacts.format.checkpoint import Checkpoint, State

SHARE = 0.1
"""Largest share of the time that may go into checkpoints."""


@dataclass(eq=False)
class Saver:
    """Keeps the checkpoint of this process, if there is to be one.

    Attributes:
        job: Where, how often, and whether to go on.
        workers: The processes that compute together; each keeps its own part.
        settings: What must be the same to go on.
    """

    job: Job
    workers: Workers
    settings: Mapping[str, Json]
    _cost: float = 0.0
    _batches: int = 0
    _since: float = field(default_factory=time.monotonic)

    @property
    def _checkpoint(self) -> Checkpoint | None:
        if self.job.checkpoint is None:
            return None
        path = self.job.checkpoint
        if self.workers.size > 1:
            path /= f"process-{self.workers.rank}"
        return Checkpoint(path, self.settings, "begin without --resume")

    def load(self) -> State | None:
        """Read what was done, if it is wanted; else forget it."""
        checkpoint = self._checkpoint
        if checkpoint is None:
            return None
        if self.job.resume:
            return checkpoint.load()
        checkpoint.remove()
        return None

    def offer(
        self, step: int, tensors: Callable[[], Mapping[str, Tensor]], **details: Json
    ) -> None:
        """Save after a batch, unless the last time was just now."""
        self._batches += 1
        waited = time.monotonic() - self._since
        if self._batches >= self.job.every and self._cost <= SHARE * waited:
            self.save(step, tensors(), **details)

    def save(self, step: int, tensors: Mapping[str, Tensor], **details: Json) -> None:
        """Save in any case."""
        checkpoint = self._checkpoint
        if checkpoint is None:
            return
        begun = time.monotonic()
        checkpoint.save(State(step, {n: t.cpu() for n, t in tensors.items()}, details))
        self._since, self._batches = time.monotonic(), 0
        self._cost = self._since - begun
