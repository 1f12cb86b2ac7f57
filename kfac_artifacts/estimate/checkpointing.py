"""Saving what an estimation has done, now and then, and going on from there.

While sums are made each process keeps its own. What follows is the same on every
process, so the main one keeps it for all. If factors have owners each process keeps
its own to the end: the last two states, because a kill may find some processes a state
ahead of others, but never two.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import FormatError
from kfac_artifacts.estimate.options import ComputeOptions
from kfac_artifacts.format import CHECKPOINT_MANIFEST, Checkpoint, State
from kfac_artifacts.places import hold
from kfac_artifacts.workers import Workers

SUMS, REFINING = "summing up", "refining"
"""The stages of an estimation, in order; the ``stage`` of a state's details."""
STREAMED = "streamed"
"""Where what is done part by part is kept, in a job's directory."""
SHARE = 0.1
"""Largest share of the time that may go into checkpoints."""
AFRESH = "begin without --resume"


@dataclass(eq=False)
class Saver:
    """Keeps the checkpoint of this process, if there is to be one.

    Attributes:
        options: Where, how often, and whether to go on.
        workers: The processes that compute together.
        settings: What must be the same to go on.
    """

    options: ComputeOptions
    workers: Workers
    settings: Mapping[str, Json]
    _cost: float = 0.0
    _batches: int = 0
    _saved: int = 0
    _since: float = field(default_factory=time.monotonic)

    def load(self) -> State | None:
        """Read what was done, if it is wanted; else forget it.

        Returns:
            The state to go on from, or None to begin.

        Raises:
            FormatError: If what was kept is damaged.
            MismatchError: If it is of another job.
            KfacError: If another process failed at this.
        """
        if self.options.directory is None:
            return None
        with self.workers.together():
            if self.options.resume:
                for place in kept_in(self.options.directory):
                    Checkpoint(place, self.settings, AFRESH).peek()
            elif self.workers.main:
                discard(self.options.directory)
        if not self.options.resume:
            return None
        return self._load_own() if self.workers.sharded else self._load_shared()

    def held(self) -> AbstractContextManager[None]:
        """Keep other runs from the checkpoint, if there is to be one."""
        path = self.options.directory
        return nullcontext() if path is None else hold_together(path, self.workers)

    def offer(
        self,
        step: int,
        tensors: Callable[[], Mapping[str, Tensor]],
        details: Mapping[str, Json],
        *,
        every: int | None = None,
    ) -> None:
        """Save, unless the last time was just now.

        Args:
            step: How far the stage is.
            tensors: Gives what is done, by name.
            details: What else is needed, with the ``stage``.
            every: Every how many offers to save at most; None for what the options say.
        """
        if self.options.directory is None:
            return
        self._batches += 1
        waited = time.monotonic() - self._since
        due = self._batches >= (every or self.options.every)
        due = due and self._cost <= SHARE * waited
        if self.workers.sharded:
            due = self.workers.copy_of(due)
        elif details["stage"] == REFINING:
            due = due and self.workers.main
        if due:
            self._save(State(step, tensors(), details))

    def _save(self, state: State) -> None:
        begun = time.monotonic()
        on_cpu = {name: tensor.cpu() for name, tensor in state.tensors.items()}
        slots = self._slots()
        slot = slots[self._saved % len(slots)]
        slot.save(State(state.step, on_cpu, state.details))
        self._since, self._batches = time.monotonic(), 0
        self._saved += 1
        self._cost = self._since - begun

    def _slots(self) -> list[Checkpoint]:
        """Where the states of this process are kept: two places if sharded."""
        path = self.options.directory
        assert path is not None  # noqa: S101 - narrows
        if self.workers.size > 1:
            path /= f"process-{self.workers.rank}"
        sharded = self.workers.sharded
        places = [path / "slot-0", path / "slot-1"] if sharded else [path]
        return [Checkpoint(place, self.settings, AFRESH) for place in places]

    def _load_shared(self) -> State | None:
        """The sums of this process, or what the main one has for all."""
        with self.workers.together():
            state = self._slots()[0].load()
        refining = state is not None and state.details["stage"] == REFINING
        if not self.workers.copy_of(refining) or self.workers.size == 1:
            return state
        tensors = self.workers.broadcast(state.tensors if state else {}, 0)
        about = (state.step, state.details) if state else (0, {})
        step, details = self.workers.copy_of(about)
        return State(step, tensors, details)

    def _load_own(self) -> State | None:
        """The last state that every process has."""
        slots = self._slots()
        with self.workers.together():
            moments = [_moment(slot.peek()) for slot in slots]
        told = self.workers.all_of(moments)
        common = set.intersection(*({m for m in own if m} for own in told))
        counts = [sum(m is not None for m in own) for own in told]
        if not common:
            if max(counts) < 2 and min(counts) == 0:
                return None  # the first time was not over
            raise FormatError(
                f"the processes have no state in common in {self.options.directory}, "
                f"but {told}; {AFRESH}"
            )
        number = moments.index(max(common))
        self._saved = number + 1
        with self.workers.together():
            return slots[number].load()


def _moment(state: State | None) -> tuple[bool, int] | None:
    """What orders states in time."""
    return None if state is None else (state.details["stage"] == REFINING, state.step)


@contextmanager
def hold_together(path: str | Path, workers: Workers) -> Iterator[None]:
    """Keep other runs from a checkpoint; the main process does it for its fellows.

    Args:
        path: The directory.
        workers: The processes; all of them call this.

    Yields:
        Nothing.

    Raises:
        PlaceError: If another run has it.
        KfacError: On the other processes, then.
    """
    with ExitStack() as stack:
        with workers.together():
            if workers.main:
                stack.enter_context(hold(path))
        yield


def kept_in(path: str | Path) -> list[Path]:
    """Find the checkpoints, of whatever job, in a job's directory.

    Args:
        path: The directory, which need not be there.

    Returns:
        The directories that hold a state.
    """
    return [place for place in _places(Path(path)) if _holds_state(place)]


def _holds_state(place: Path) -> bool:
    states = place.glob("*.json") if place.name == STREAMED else ()
    return any(states) or (place / CHECKPOINT_MANIFEST).is_file()


def discard(path: str | Path) -> None:
    """Remove a job's checkpoints; anything else in the directory stays there."""
    for pattern in ("*.states", "*.json"):
        for file in (Path(path) / STREAMED).glob(pattern):
            file.unlink()
    for place in reversed(_places(Path(path))):
        Checkpoint(place, {}, AFRESH).remove()


def _places(path: Path) -> list[Path]:
    """Where states may be, whatever the number of processes."""
    patterns = ("process-*", "process-*/slot-*", STREAMED, f"{STREAMED}/part-*")
    return [path, *(place for each in patterns for place in path.glob(each))]
