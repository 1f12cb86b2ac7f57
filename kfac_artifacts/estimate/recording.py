"""Records that are kept while sums are made, so that no second pass is needed.

Estimators that look at examples again need the records of one pass. The pass that makes
the sums has seen them already: as many as fit into memory are kept from it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol, TypeAlias, TypeVar, final, runtime_checkable

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture import (
    Layer,
    LayerCall,
    Loaded,
    Record,
    RecordBatch,
    Recorder,
    Run,
    StreamedRecords,
    fitting,
    next_group,
)
from kfac_artifacts.estimate.accumulator import Accumulator
from kfac_artifacts.estimate.estimators.base import Estimate
from kfac_artifacts.workers import Workers

L = TypeVar("L", bound=Layer)
Records: TypeAlias = Iterable[RecordBatch]


@runtime_checkable
class BlockFit(Protocol):
    """What becomes of a block by looks at all examples."""

    @property
    def done(self) -> bool:
        """Whether no further look is needed."""

    def add(self, record: Record, numbers: Sequence[int]) -> None:
        """Show a batch: the block on N examples, and their places among all."""

    def close(self, workers: Workers, examples: int) -> None:
        """End a look at so many examples, of all processes."""


@final
class RecordingAccumulator(Accumulator):
    """KFAC-expand, with the records of some layers.

    Several processes record in a pass of its own, where what fits is agreed upon.

    Args:
        run: The passes.
        layers: Layers to record, as many as fit.
        memory: Bytes that may be kept.
    """

    def __init__(self, run: Run, layers: Sequence[Layer], memory: int) -> None:
        super().__init__(run)
        self._run, self._memory = run, memory
        self._wanted = list(layers) if run.workers.size == 1 else []
        self._recorder = Recorder(exact=run.sample.cotangents.name == "exact")
        self._kept: list[RecordBatch] = []

    @override
    def on_input(self, call: LayerCall) -> None:
        super().on_input(call)
        if call.layer in self._wanted:
            self._recorder.on_input(call)

    @override
    def on_cotangents(self, call: LayerCall, g: Tensor) -> None:
        super().on_cotangents(call, g)
        for each in g if call.layer in self._wanted else ():
            self._recorder.on_cotangent(call, each)

    @override
    def end_of_batch(self, loaded: Loaded) -> None:
        if not self._wanted:  # other processes may be past their batches: ask them not
            return
        records = self._recorder.take()
        if not self._kept:
            memory = self._memory * len(loaded.ordinals)
            self._wanted = fitting(self._run, self._wanted, records, memory)
        names = {name for layer in self._wanted for name in layer.blocks(layer)}
        kept = {name: record for name, record in records.items() if name in names}
        self._kept.append((loaded.ordinals, kept))

    @override
    def forget_records(self) -> None:
        self._wanted.clear()

    @override
    def records(self) -> list[RecordBatch]:
        return self._kept if self._wanted else []


def recorded(
    run: Run,
    found: Estimate,
    todo: Sequence[L],
    memory: int,
    bearable: Callable[[Sequence[L]], Sequence[L]] = list,
) -> Iterator[tuple[Sequence[L], Records]]:
    """Give all layers with their records, those of one input at a time.

    Records that are kept are forgotten with the layers that they were given with. If
    not one layer's fit into memory, all layers are given, and their records made anew
    for every look.

    Args:
        run: The passes.
        found: What is estimated so far, with what was kept.
        todo: Layers to record.
        memory: Bytes per process.
        bearable: Which of the layers that are left, the first ones, may be given
            together.

    Yields:
        Layers, and their records by batch.
    """
    while todo:
        stage, first = f"refining {len(todo)} modules", bearable(todo)
        kept = found.records.pop() if found.records else []
        group = [layer for layer in first if kept and layer.name in kept[0][1]]
        if not group:
            group, kept = next_group(run, first, memory, stage)
        if group:
            yield from _by_input(run, group, kept)
        else:
            group = list(first)
            yield group, StreamedRecords(run, group, f"{stage}, one look")
        todo = [layer for layer in todo if layer not in group]


def _by_input(
    run: Run, group: Sequence[L], kept: Sequence[RecordBatch]
) -> Iterator[tuple[Sequence[L], Records]]:
    leaders = run.coverage.leaders
    for _, layers in groupby(group, lambda layer: leaders.get(layer, layer)):
        own = list(layers)
        names = [layer.name for layer in own]
        yield own, [(numbers, {n: r.pop(n) for n in names}) for numbers, r in kept]


def look_until_done(run: Run, fits: Mapping[str, BlockFit], batches: Records) -> None:
    """Show every batch to the fits of its blocks, as often as they ask for it.

    Args:
        run: The passes.
        fits: The fit of every block.
        batches: The records of all examples.
    """
    while not all(fit.done for fit in fits.values()):
        with run.workers.stage():
            for numbers, records in batches:
                for name, record in records.items():
                    if not fits[name].done and numbers:
                        fits[name].add(record, numbers)
        for fit in fits.values():
            if not fit.done:
                fit.close(run.workers, len(run.sample))
