"""Groups of modules whose records of all examples fit into memory together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from kfac_artifacts.estimate.naming import blocks_of
from kfac_artifacts.estimate.records.record import Record
from kfac_artifacts.estimate.records.recorder import Recorder
from kfac_artifacts.estimate.run import Run
from kfac_artifacts.estimate.sample import Loaded
from kfac_artifacts.estimate.sites.base import Site

Batch: TypeAlias = tuple[Sequence[int], dict[str, Record]]
"""Ranks of the examples of a batch, and their records by block."""


def next_group(
    run: Run, todo: Sequence[Site], memory: int, stage: str
) -> tuple[list[Site], list[Batch]]:
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
    group[:] = _fitting(run, todo, records, memory * len(loaded.ranks or [0]))
    if not group:
        passes.close()
        return [], []
    with run.workers.stage():
        kept = [_kept(loaded, records, group)]
        kept += [_kept(more, recorder.take(), group) for more in passes]
    return group, kept


def _kept(
    loaded: Loaded, records: Mapping[str, Record], group: Sequence[Site]
) -> Batch:
    names = [name for site in group for name in blocks_of(site, site)]
    return loaded.ranks, {name: records[name] for name in names}


def _recorder(run: Run) -> Recorder:
    return Recorder(exact=run.sample.cotangents.name == "exact")


def _fitting(
    run: Run, todo: Sequence[Site], records: Mapping[str, Record], memory: int
) -> list[Site]:
    """The first sites whose records of all examples fit, as one batch tells."""
    share = len(run.sample.ranks)
    sizes = [
        float(share * sum(records[name].nbytes for name in blocks_of(site, site)))
        for site in todo
    ]
    device = run.network.device
    told = run.workers.sum(torch.tensor([*sizes, memory], device=device)).tolist()
    fitting, total = [], 0.0
    for site, size in zip(todo, told, strict=False):
        if total + size <= told[-1]:
            fitting.append(site)
            total += size
    return fitting


@dataclass(frozen=True)
class Streamed:
    """Records that are made anew for every look, one batch in memory at a time.

    Attributes:
        run: The passes.
        sites: The modules.
        stage: What to call a look while showing progress.
    """

    run: Run
    sites: Sequence[Site]
    stage: str

    def __iter__(self) -> Iterator[Batch]:
        recorder = _recorder(self.run)
        for loaded in self.run.passes(recorder, self.sites, self.stage):
            yield loaded.ranks, recorder.take()
