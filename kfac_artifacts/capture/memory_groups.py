"""Groups of modules whose records of all examples fit into memory together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch

from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.record import Record
from kfac_artifacts.capture.recorder import Recorder
from kfac_artifacts.capture.run import Run
from kfac_artifacts.capture.sample import Loaded

L = TypeVar("L", bound=Layer)

RecordBatch: TypeAlias = tuple[Sequence[int], dict[str, Record]]
"""Ordinals of the examples of a batch, and their records by block."""


def next_group(
    run: Run, todo: Sequence[L], memory: int, stage: str
) -> tuple[list[L], list[RecordBatch]]:
    """Record the next modules whose records of all examples fit into memory.

    Args:
        run: The passes.
        todo: Modules that are left, at least one.
        memory: Bytes per process.
        stage: What to call the pass while showing progress.

    Returns:
        The modules and their records by batch; none if not one module fits.
    """
    recorder, group = _recorder(run), list(todo)
    passes = run.passes(recorder, group, stage)
    with run.workers.stage():
        loaded = next(passes)
        records = recorder.take()
    # what the passes to come listen to
    group[:] = fitting(run, todo, records, memory * len(loaded.ordinals or [0]))
    if not group:
        passes.close()
        return [], []
    with run.workers.stage():
        kept = [_kept(loaded, records, group)]
        kept += [_kept(more, recorder.take(), group) for more in passes]
    return group, kept


def _kept(
    loaded: Loaded, records: Mapping[str, Record], group: Sequence[Layer]
) -> RecordBatch:
    names = [name for layer in group for name in layer.blocks(layer)]
    return loaded.ordinals, {name: records[name] for name in names}


def _recorder(run: Run) -> Recorder:
    return Recorder(exact=run.sample.cotangents.name == "exact")


def fitting(
    run: Run, todo: Sequence[L], records: Mapping[str, Record], memory: int
) -> list[L]:
    """Choose the first layers whose records of all examples fit, as one batch tells.

    Args:
        run: The passes.
        todo: The layers.
        records: Those of one batch, by block.
        memory: Bytes per process, times the examples of that batch.

    Returns:
        The layers that fit together.
    """
    share = len(run.sample.ordinals)
    sizes = [
        float(share * sum(records[name].nbytes for name in layer.blocks(layer)))
        for layer in todo
    ]
    device = run.network.device
    told = run.workers.sum(torch.tensor([*sizes, memory], device=device)).tolist()
    fitting, total = list[L](), 0.0
    for layer, size in zip(todo, told, strict=False):
        if total + size <= told[-1]:
            fitting.append(layer)
            total += size
    return fitting


@dataclass(frozen=True)
class StreamedRecords:
    """Records that are made anew for every look, one batch in memory at a time.

    Attributes:
        run: The passes.
        layers: The modules.
        stage: What to call a look while showing progress.
    """

    run: Run
    layers: Sequence[Layer]
    stage: str

    def __iter__(self) -> Iterator[RecordBatch]:
        recorder = _recorder(self.run)
        for loaded in self.run.passes(recorder, self.layers, self.stage):
            yield loaded.ordinals, recorder.take()
