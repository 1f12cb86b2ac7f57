"""Records that are kept while sums are made, so that no second pass is needed.

Estimators that look at examples again need the records of one pass. The pass that makes
the sums has seen them already: as many as fit into memory are kept from it.
"""

from collections.abc import Sequence
from typing import TypeVar, final

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture import (
    Layer,
    LayerCall,
    Loaded,
    RecordBatch,
    Recorder,
    Run,
    StreamedRecords,
    fitting,
    next_group,
)
from kfac_artifacts.estimate.accumulator import Accumulator
from kfac_artifacts.estimate.estimators.base import Estimate

L = TypeVar("L", bound=Layer)


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


def next_records(
    run: Run, found: Estimate, todo: Sequence[L], memory: int, stage: str
) -> tuple[list[L], Sequence[RecordBatch] | StreamedRecords]:
    """Give the next layers with their records: kept ones, if they are or can be.

    Args:
        run: The passes.
        found: What is estimated so far, with what was kept.
        todo: Layers that are left, at least one.
        memory: Bytes per process.
        stage: What to call a pass while showing progress.

    Returns:
        The layers and their records by batch; all layers, and records made anew for
        every look, if not one fits into memory.
    """
    recorded = found.records.pop() if found.records else []
    group = [layer for layer in todo if recorded and layer.name in recorded[0][1]]
    if group:
        return group, recorded
    group, kept = next_group(run, todo, memory, stage)
    if group:
        return group, kept
    return list(todo), StreamedRecords(run, todo, f"{stage}, one look")
