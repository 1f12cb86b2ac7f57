"""From the factors of KFAC to the nearest products: looks at the data, group by group.

Power iterations look at every example several times. As many blocks as fit into memory
form a group, whose records are kept from one pass; a block too large for that is
recorded again for every look.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from kfac_artifacts.artifact import Block, KroneckerBlock
from kfac_artifacts.estimate.accumulate import sum_shapes
from kfac_artifacts.estimate.naming import input_name, output_name
from kfac_artifacts.estimate.nearest import Fit
from kfac_artifacts.estimate.options import Estimator
from kfac_artifacts.estimate.record import Record, Recorder
from kfac_artifacts.estimate.run import Run
from kfac_artifacts.estimate.sample import Loaded
from kfac_artifacts.estimate.sites import Site
from kfac_artifacts.factors import Factor

Batch: TypeAlias = tuple[Sequence[int], dict[str, Record]]
FLOAT = 4
"""Bytes of a number of the sums; float64 is for tests."""


@dataclass(eq=False)
class Refined:
    """Blocks and factors, more and more of them refined.

    Attributes:
        blocks: All blocks by name.
        start: The factors of KFAC that live on this process, by name.
        factors: The refined ones that live here.
        finished: Names of the sites that are done.
        sweeps: The most sweeps that a block took.
    """

    blocks: dict[str, Block]
    start: dict[str, Factor]
    factors: dict[str, Factor] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    sweeps: int = 0

    def all_factors(self) -> dict[str, Factor]:
        """The factors that the blocks refer to, of those that live here."""
        rest = self.blocks.keys() - set(self.finished)
        used = {name for key in rest for name in self.blocks[key].factors}
        # a refined factor and one of KFAC may have the same name, on two processes
        return {n: f for n, f in self.start.items() if n in used} | self.factors


def refine(run: Run, estimator: Estimator, found: Refined) -> Iterator[Refined]:
    """Replace the factors of Kronecker blocks by those of the nearest products.

    Args:
        run: The passes.
        estimator: How the nearest products are sought.
        found: Blocks and factors of KFAC; changed in place.

    Yields:
        The same, after every group.
    """
    todo = [
        site
        for site in run.coverage.sites
        if not site.whole and site.name not in found.finished
    ]
    while todo:
        group, batches = _next_group(run, _bearable(run, todo, estimator), estimator)
        fits = {
            site.name: Fit(_start(run, found.start, site), estimator) for site in group
        }
        while not all(fit.done for fit in fits.values()):
            with run.workers.stage():
                _look(fits, batches)
            for fit in fits.values():
                if not fit.done:
                    fit.close(run.workers)
        for site in group:
            _keep(run, found, site, fits[site.name])
        todo = [site for site in todo if site not in group]
        yield found


def _look(fits: Mapping[str, Fit], batches: Iterable[Batch]) -> None:
    """Show every batch to every block that is not done."""
    for ranks, records in batches:
        for name, record in records.items():
            if not fits[name].done and ranks:
                fits[name].add(record, ranks)


def _bearable(run: Run, todo: list[Site], estimator: Estimator) -> list[Site]:
    """If sharded, the first sites whose own matrices fit into memory; at least one."""
    if not run.workers.sharded:
        return todo
    shapes = sum_shapes(run.coverage, run.network.shapes)
    powers = 3 if estimator.shrinkage else 1
    size, bearable = 0, list[Site]()
    for site in todo:
        leader = run.coverage.leaders.get(site, site)
        pair = prod(shapes[input_name(leader)]) + prod(shapes[output_name(site)])
        size += pair * (1 + 2 * powers * estimator.terms) * FLOAT
        if bearable and size > estimator.memory:
            break
        bearable.append(site)
    return bearable


def _next_group(
    run: Run, todo: Sequence[Site], estimator: Estimator
) -> tuple[list[Site], Iterable[Batch]]:
    """The next blocks whose records fit into memory, and the records by batch."""
    recorder, group = Recorder(), list(todo)
    passes = run.passes(recorder, group, f"refining {len(todo)} modules")
    with run.workers.stage():
        loaded = next(passes)
        records = recorder.take()
    memory = float(estimator.memory * len(loaded.ranks))
    fitting = _fitting(run, todo, records, memory)
    if not fitting:
        passes.close()
        return group, _Streamed(run, group)
    group[:] = fitting  # what the passes to come listen to
    with run.workers.stage():
        kept = [_kept(loaded, records, group)]
        kept += [_kept(more, recorder.take(), group) for more in passes]
    return group, kept


def _kept(loaded: Loaded, records: Mapping[str, Record], group: list[Site]) -> Batch:
    return loaded.ranks, {site.name: records[site.name] for site in group}


def _fitting(
    run: Run, todo: Sequence[Site], records: Mapping[str, Record], memory: float
) -> list[Site]:
    """The first sites whose records of all examples fit, as one batch tells."""
    share = len(run.sample.ranks)
    sizes = [float(share * records[site.name].nbytes) for site in todo]
    device = run.network.device
    told = run.workers.sum(torch.tensor([*sizes, memory], device=device)).tolist()
    fitting, total = [], 0.0
    for site, size in zip(todo, told, strict=False):
        if total + size <= told[-1]:
            fitting.append(site)
            total += size
    return fitting


@dataclass(frozen=True)
class _Streamed:
    """Records that are made anew for every look, one batch in memory at a time."""

    run: Run
    sites: Sequence[Site]

    def __iter__(self) -> Iterator[Batch]:
        recorder = Recorder()
        stage = f"refining {len(self.sites)} modules, one look"
        for loaded in self.run.passes(recorder, self.sites, stage):
            yield loaded.ranks, recorder.take()


def _start(run: Run, start: Mapping[str, Factor], site: Site) -> tuple[Tensor, Tensor]:
    """A and B of KFAC, on every process."""
    leader = run.coverage.leaders.get(site, site)
    names = input_name(leader), output_name(site)
    A, B = (run.workers.share(name, start.get(name)) for name in names)
    return _tensor(A), _tensor(B)


def _tensor(factor: Factor) -> Tensor:
    (tensor,) = factor.tensors().values()
    return tensor


def _keep(run: Run, found: Refined, site: Site, fit: Fit) -> None:
    """Replace the terms of a block."""
    names = []
    for number, pair in enumerate(fit.terms()):
        suffix = f".{number}" if number else ""
        a, b = input_name(site) + suffix, output_name(site) + suffix
        names.append((a, b))
        if run.workers.holds(output_name(site)):
            found.factors |= {a: pair[0], b: pair[1]}
    block = found.blocks[site.name]
    assert isinstance(block, KroneckerBlock)  # noqa: S101 - narrows
    found.blocks[site.name] = replace(block, terms=tuple(names))
    found.finished.append(site.name)
    found.sweeps = max(found.sweeps, fit.whole.sweeps)
