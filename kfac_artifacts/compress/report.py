"""What compressing an artifact lost, module by module."""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.compress.measures import Spread, spreads, worst
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.factors import Factor, eigenvalue_ratio
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.seeding import seeded

Terms: TypeAlias = Sequence[Sequence[Factor]]
DIRECTIONS = 8
"""Random directions per module."""


@dataclass(frozen=True)
class ModuleReport:
    """One module before and after.

    Attributes:
        name: Of the block.
        before: Size of its factors in bytes; one that is shared counts where it is
            first used.
        after: The same of the compressed artifact.
        error: Relative Frobenius error of the block.
        norm: Frobenius norm of the block before, at the scale of a mean over tasks.
        trace: Share of the trace that is kept.
        min_eigenvalue: Smallest λ_min / λ_max of its compressed factors, or a bound.
        random: Mean relative error of the penalty over random directions ``u vᵀ``.
        directions: Penalty after / before along given task vectors; None where that
            is zero before.
        fitness: By name, the worst of its factors in each of ``MEASURES``; None where
            that was not measured, or does not exist.
    """

    name: str
    before: int
    after: int
    error: float
    norm: float
    trace: float
    min_eigenvalue: float
    random: float
    directions: tuple[float | None, ...]
    fitness: Mapping[str, float | None]


@dataclass(frozen=True)
class Report:
    """All modules, and what they are together.

    Attributes:
        modules: One by one.
        error: Relative Frobenius error of all blocks together.
        directions: Penalty after / before along the given task vectors, in all.
        fitness: Of each of ``MEASURES`` the worst and the median over the factors.
    """

    modules: tuple[ModuleReport, ...]
    error: float
    directions: tuple[float | None, ...]
    fitness: Mapping[str, Spread]


def compression_report(
    before: Artifact,
    after: Artifact,
    task_vectors: Sequence[Mapping[str, Tensor]] = (),
    progress: Advance = unseen,
) -> Report:
    """Compare an artifact with what was made of it by compressing.

    Args:
        before: The artifact.
        after: The compressed one.
        task_vectors: Directions along which to compare the penalty; parameters that
            they lack count as unchanged.
        progress: Called with 1 after every module.

    Returns:
        The report; one module is in memory at a time.

    Raises:
        MismatchError: If the artifacts do not have the same blocks.
    """
    if dict(before.blocks) != dict(after.blocks):
        raise MismatchError("the artifacts do not have the same blocks")
    found, sums = [], []
    seen: set[str] = set()
    for name, block in before.blocks.items():
        fresh = set(block.factors) - seen
        seen |= fresh
        sizes = _nbytes(before, fresh), _nbytes(after, fresh)
        module, values = _module(name, block, (before, after), sizes, task_vectors)
        found.append(module)
        sums.append(values)
        progress(1)
    total = sum(m.norm**2 for m in found)
    lost = sum((m.error * m.norm) ** 2 for m in found)
    along = [[*zip(*pairs, strict=True)] for pairs in zip(*sums, strict=True)]
    ratios = tuple(_ratio(sum(after), sum(b)) for b, after in along)
    error = (lost / total) ** 0.5 if total > 0 else 0.0
    return Report(tuple(found), error, ratios, spreads(after))


def _module(
    name: str,
    block: Block,
    artifacts: tuple[Artifact, Artifact],
    sizes: tuple[int, int],
    task_vectors: Sequence[Mapping[str, Tensor]],
) -> tuple[ModuleReport, list[tuple[float, float]]]:
    """Measure a block, and the penalties along the task vectors before and after."""
    shapes = artifacts[0].parameters
    exact, found = (
        {f: artifact.factors[f].to("cpu", torch.float64) for f in block.factors}
        for artifact in artifacts
    )
    pairs = [block.products(factors, shapes) for factors in (exact, found)]
    scale = block.scale(artifacts[0].provenance.tasks)
    size = _inner(pairs[0], pairs[0])
    lost = size + _inner(pairs[1], pairs[1]) - 2 * _inner(*pairs)
    forms = [_random_forms(terms, name) for terms in pairs]
    traces = [_trace(terms) for terms in pairs]
    moves = [_filled(block, tau, shapes) for tau in task_vectors]
    along = [_along(block, exact, found, tau, scale) for tau in moves]
    report = ModuleReport(
        name=name,
        before=sizes[0],
        after=sizes[1],
        error=(max(lost, 0.0) / size) ** 0.5 if size > 0 else 0.0,
        norm=scale * size**0.5,
        trace=traces[1] / traces[0] if traces[0] else 1.0,
        min_eigenvalue=min(
            eigenvalue_ratio(*f.eigenvalue_range()) for f in found.values()
        ),
        random=float(((forms[1] - forms[0]) / forms[0]).abs().nan_to_num(0).mean()),
        directions=tuple(_ratio(after, before) for before, after in along),
        fitness=worst(artifacts[1], block.factors),
    )
    return report, along


def _inner(one: Terms, other: Terms) -> float:
    """``⟨Σ B ⊗ A, Σ B' ⊗ A'⟩`` without a Kronecker product."""
    return sum(
        math.prod(float(f.inner(g)) for f, g in zip(left, right, strict=True))
        for left in one
        for right in other
    )


def _trace(terms: Terms) -> float:
    return sum(math.prod(float(f.diagonal().sum()) for f in term) for term in terms)


def _random_forms(terms: Terms, name: str) -> Tensor:
    """``Σ_r (uᵀ B_r u) (vᵀ A_r v)`` for directions u vᵀ that the name seeds."""
    generator = seeded(zlib.crc32(name.encode()))
    drawn: dict[int, Tensor] = {}
    total = torch.zeros(DIRECTIONS, dtype=torch.float64)
    for term in terms:
        forms = torch.ones(DIRECTIONS, dtype=torch.float64)
        for place, factor in enumerate(term):
            if place not in drawn:
                shape = (factor.dim, DIRECTIONS)
                drawn[place] = torch.randn(
                    shape, generator=generator, dtype=torch.float64
                )
            forms *= (drawn[place] * factor.matmul(drawn[place])).sum(0)
        total += forms
    return total


def _filled(
    block: Block, tau: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The changes of a block's parameters, zero where there is none."""
    names = block.parameters
    return {n: tau[n] if n in tau else torch.zeros(shapes[n]) for n in names}


def _along(
    block: Block,
    exact: Mapping[str, Factor],
    found: Mapping[str, Factor],
    tau: Mapping[str, Tensor],
    scale: float,
) -> tuple[float, float]:
    """The penalty before and after."""
    W = block.gather(tau).to("cpu", torch.float64)
    before, after = (
        scale * float((W * block.product(W, factors)).sum())
        for factors in (exact, found)
    )
    return before, after


def _ratio(after: float, before: float) -> float | None:
    return after / before if before else None


def _nbytes(artifact: Artifact, names: Iterable[str]) -> int:
    return sum(map(artifact.factors.nbytes, names))
