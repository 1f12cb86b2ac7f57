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
from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.memory_groups import Batch, Streamed, next_group
from kfac_artifacts.capture.naming import input_name, output_name
from kfac_artifacts.capture.run import Run
from kfac_artifacts.estimate.accumulator import sum_shapes
from kfac_artifacts.estimate.estimators.nearest_fit import Fit
from kfac_artifacts.estimate.options import Estimator
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
        finished: Names of the layers that are done.
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
        layer
        for layer in run.coverage.layers
        if not layer.whole and layer.name not in found.finished
    ]
    while todo:
        bearable = _bearable(run, todo, estimator)
        group, batches = _next(run, bearable, estimator.memory)
        fits = {
            layer.name: Fit(_start(run, found.start, layer), estimator)
            for layer in group
        }
        while not all(fit.done for fit in fits.values()):
            with run.workers.stage():
                _look(fits, batches)
            for fit in fits.values():
                if not fit.done:
                    fit.close(run.workers, len(run.sample))
        for layer in group:
            _keep(run, found, layer, fits[layer.name])
        todo = [layer for layer in todo if layer not in group]
        yield found


def _look(fits: Mapping[str, Fit], batches: Iterable[Batch]) -> None:
    """Show every batch to every block that is not done."""
    for ranks, records in batches:
        for name, record in records.items():
            if not fits[name].done and ranks:
                fits[name].add(record, ranks)


def _bearable(run: Run, todo: list[Layer], estimator: Estimator) -> list[Layer]:
    """If sharded, the first layers whose own matrices fit into memory; at least one."""
    if not run.workers.sharded:
        return todo
    shapes = sum_shapes(run.coverage, run.network.shapes)
    size, bearable = 0, list[Layer]()
    for layer in todo:
        leader = run.coverage.leaders.get(layer, layer)
        pair = prod(shapes[input_name(leader)]) + prod(shapes[output_name(layer)])
        size += pair * (1 + 2 * estimator.terms) * FLOAT
        if bearable and size > estimator.memory:
            break
        bearable.append(layer)
    return bearable


def _next(
    run: Run, todo: Sequence[Layer], memory: int
) -> tuple[list[Layer], Iterable[Batch]]:
    """The next blocks, with records that are kept if they fit into memory."""
    stage = f"refining {len(todo)} modules"
    group, kept = next_group(run, todo, memory, stage)
    if group:
        return group, kept
    return list(todo), Streamed(run, todo, f"{stage}, one look")


def _start(
    run: Run, start: Mapping[str, Factor], layer: Layer
) -> tuple[Tensor, Tensor]:
    """A and B of KFAC, on every process."""
    leader = run.coverage.leaders.get(layer, layer)
    names = input_name(leader), output_name(layer)
    A, B = (run.workers.share(name, start.get(name)) for name in names)
    return _tensor(A), _tensor(B)


def _tensor(factor: Factor) -> Tensor:
    (tensor,) = factor.tensors().values()
    return tensor


def _keep(run: Run, found: Refined, layer: Layer, fit: Fit) -> None:
    """Replace the terms of a block."""
    names = []
    for number, pair in enumerate(fit.terms()):
        suffix = f".{number}" if number else ""
        a, b = input_name(layer) + suffix, output_name(layer) + suffix
        names.append((a, b))
        if run.workers.holds(output_name(layer)):
            found.factors |= {a: pair[0], b: pair[1]}
    block = found.blocks[layer.name]
    assert isinstance(block, KroneckerBlock)  # noqa: S101 - narrows
    found.blocks[layer.name] = replace(block, terms=tuple(names))
    found.finished.append(layer.name)
    found.sweeps = max(found.sweeps, int(fit.sweeps))
