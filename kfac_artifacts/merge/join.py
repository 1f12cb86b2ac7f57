"""Joining: parts of one estimation, split by modules, back to one artifact."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from typing_extensions import override

from kfac_artifacts.artifact import Artifact, BaseModel, Factors, NamedConfig
from kfac_artifacts.errors import MismatchError, listed
from kfac_artifacts.factors import Factor
from kfac_artifacts.merge.compatible import merged_estimator


class _Joined(Factors):
    """Factors of several artifacts, each asked for where it is."""

    def __init__(self, parts: Sequence[Artifact]) -> None:
        self._parts = {name: part for part in parts for name in part.factors}

    def __getitem__(self, name: str) -> Factor:
        """Ask the part that has it."""
        return self._parts[name].factors[name]

    @override
    def structure(self, name: str) -> NamedConfig:
        return self._parts[name].factors.structure(name)

    @override
    def storage(self, name: str) -> str | None:
        return self._parts[name].factors.storage(name)

    @override
    def is_exact(self, name: str) -> bool:
        return self._parts[name].factors.is_exact(name)

    @override
    def nbytes(self, name: str) -> int:
        return self._parts[name].factors.nbytes(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def join_parts(parts: Sequence[Artifact]) -> Artifact:
    """Put artifacts of one task together that cover different modules.

    They must come from one estimation that was split by modules: the same model, data
    and cotangents. (Artifacts of different tasks are merged, not joined.)

    >>> import torch
    >>> import kfac_artifacts as kfac
    >>> f = kfac.OutputMap(kfac.NamedConfig("all"), lambda m, batch: m(**batch))
    >>> layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> network = kfac.Network(layers, f, "two layers")
    >>> data = kfac.TensorExamples({"input": torch.randn(64, 2)}, "noise")
    >>> first = kfac.compute(network, data, only=["0.*"])
    >>> rest = kfac.compute(network, data, exclude=["0.*"])
    >>> both = join_parts([first, rest])
    >>> list(first.blocks), list(rest.blocks), list(both.blocks)
    (['0'], ['1'], ['0', '1'])
    >>> tau = {name: torch.ones(shape) for name, shape in both.parameters.items()}
    >>> torch.equal(both.drift(tau), first.drift(tau) + rest.drift(tau))
    True

    Args:
        parts: Two or more artifacts.

    Returns:
        One artifact that covers what any of them covers; its factors are read when they
        are asked for.

    Raises:
        MismatchError: If they are not of one estimation, or cover a parameter twice;
            all differences are listed.
    """
    if len(parts) < 2:
        raise MismatchError("there is nothing to join: give two or more artifacts")
    first = parts[0].provenance
    faults = [
        f"artifact {number} has {what}"
        for number, part in enumerate(parts[1:], 2)
        for what in _differences(parts[0], part)
    ]
    faults += _twice(parts)
    if faults:
        raise MismatchError(
            "these artifacts cannot be joined:\n  " + "\n  ".join(faults)
        )
    parameters = {
        name: info
        for part in parts
        for name, info in part.provenance.base.parameters.items()
    }
    left_out = [set(part.provenance.excluded) for part in parts]
    reasons = {n: r for p in parts for n, r in p.provenance.uncovered.items()}
    provenance = replace(
        first,
        sources=tuple(replace(source, digest=None) for source in first.sources),
        estimator=merged_estimator(parts),
        base=BaseModel(first.base.id, first.base.revision, parameters).known_as(
            part.provenance.base for part in parts
        ),
        excluded=tuple(
            name for name in first.excluded if all(name in names for names in left_out)
        ),
        uncovered={n: r for n, r in reasons.items() if n not in parameters},
        losses={n: loss for p in parts for n, loss in p.provenance.losses.items()},
    )
    blocks = {name: block for part in parts for name, block in part.blocks.items()}
    return Artifact(provenance, blocks, _Joined(parts))


def _differences(one: Artifact, other: Artifact) -> Iterator[str]:
    p, q = one.provenance, other.provenance
    if p.tasks != 1 or q.tasks != 1:
        yield f"{q.tasks} tasks, and artifact 1 {p.tasks}: join before merging"
    if p.sources[0].privacy or q.sources[0].privacy:
        yield "noise of its own, and guarantees add up: compute all modules at once"
    for what, ours, theirs in (
        ("the base model", p.base.id, q.base.id),
        ("the output map", p.output_map, q.output_map),
        ("the estimator", p.estimator.name, q.estimator.name),
        ("the data", p.sources[0].data, q.sources[0].data),
        ("the cotangents", p.sources[0].cotangents, q.sources[0].cotangents),
    ):
        if ours != theirs:
            yield f"{what} {theirs}, artifact 1 has {ours}"


def _twice(parts: Sequence[Artifact]) -> Iterator[str]:
    for what, names in (
        ("parameter", [n for p in parts for n in p.provenance.base.parameters]),
        ("block", [n for p in parts for n in p.blocks]),
        ("factor", [n for p in parts for n in p.factors]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield f"more than one has the {what} {listed(twice, 3)}"
            return
