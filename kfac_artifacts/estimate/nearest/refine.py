"""From the factors of KFAC to the nearest products: looks at the data, group by group.

Power iterations look at every example several times. As many blocks as fit into memory
form a group, whose records are kept from one pass; a block too large for that is
recorded again for every look.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from torch import Tensor

from kfac_artifacts.artifact import Block, KroneckerBlock
from kfac_artifacts.estimate.accumulate import sum_shapes
from kfac_artifacts.estimate.naming import input_name, output_name
from kfac_artifacts.estimate.nearest.fit import Fit
from kfac_artifacts.estimate.options import Estimator
from kfac_artifacts.estimate.records.groups import Batch, Streamed, next_group
from kfac_artifacts.estimate.run import Run
from kfac_artifacts.estimate.sites.base import Site
from kfac_artifacts.factors import Factor

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
        bearable = _bearable(run, todo, estimator)
        group, batches = _next(run, bearable, estimator.memory)
        fits = {
            site.name: Fit(_start(run, found.start, site), estimator) for site in group
        }
        while not all(fit.done for fit in fits.values()):
            with run.workers.stage():
                _look(fits, batches)
            for fit in fits.values():
                if not fit.done:
                    fit.close(run.workers, len(run.sample))
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
    size, bearable = 0, list[Site]()
    for site in todo:
        leader = run.coverage.leaders.get(site, site)
        pair = prod(shapes[input_name(leader)]) + prod(shapes[output_name(site)])
        size += pair * (1 + 2 * estimator.terms) * FLOAT
        if bearable and size > estimator.memory:
            break
        bearable.append(site)
    return bearable


def _next(
    run: Run, todo: Sequence[Site], memory: int
) -> tuple[list[Site], Iterable[Batch]]:
    """The next blocks, with records that are kept if they fit into memory."""
    stage = f"refining {len(todo)} modules"
    group, kept = next_group(run, todo, memory, stage)
    if group:
        return group, kept
    return list(todo), Streamed(run, todo, f"{stage}, one look")


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
    found.sweeps = max(found.sweeps, int(fit.sweeps))
