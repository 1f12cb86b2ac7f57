"""Merging and excluding: artifacts to one artifact."""

from collections.abc import Sequence
from dataclasses import replace

from kfac_artifacts.artifact import (
    Artifact,
    Block,
    Provenance,
    task_names,
)
from kfac_artifacts.choices import WEIGHTINGS
from kfac_artifacts.definiteness import check_definite
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.merge.compatible import (
    check_same,
    merged_estimator,
    merged_sources,
    warn_of_other_inputs,
)
from kfac_artifacts.merge.error import merge_errors
from kfac_artifacts.merge.factors import MergedFactors, Part
from kfac_artifacts.merge.refit import RefittedFactors
from kfac_artifacts.merge.weighting import (
    chosen_weighting,
    merged_positions,
    position_weights,
)
from kfac_artifacts.progress import Advance, unseen


def merge(
    artifacts: Sequence[Artifact],
    *,
    exclude: Sequence[Artifact] = (),
    weighting: str | None = None,
    allow_indefinite: bool = False,
    progress: Advance = unseen,
) -> Artifact:
    """Merge artifacts, and take some out again.

    The result's factors are computed when they are asked for, so saving it holds one
    at a time in memory.

    >>> import torch
    >>> import kfac_artifacts as kfac
    >>> f = kfac.OutputMap(kfac.NamedConfig("all"), lambda m, batch: m(**batch))
    >>> network = kfac.Network(torch.nn.Linear(2, 1, bias=False), f, "two weights")
    >>> def task(name, x, size):
    ...     data = kfac.TensorExamples({"input": torch.tensor([x] * size)}, name)
    ...     return kfac.compute(network, data, allow_few=True)
    >>> one, other = task("first", [1.0, 0.0], 8), task("second", [0.0, 1.0], 24)
    >>> total = merge([one, other])
    >>> weights(total.provenance)
    {'1 first': 0.25, '2 second': 0.75}
    >>> tau = {"weight": torch.tensor([[2.0, 1.0]])}
    >>> one.drift(tau).item(), other.drift(tau).item()
    (4.0, 1.0)
    >>> total.drift(tau).item()  # 0.25 · 4 + 0.75 · 1
    1.75
    >>> merge([total], exclude=[other]).drift(tau).item()
    4.0

    Args:
        artifacts: What to add; one is enough when there is something to exclude.
        exclude: What to take out; each must be a part of what is added.
        weighting: What A is weighed by: ``size`` (TAK, Eq. 8) or ``positions``, so that
            ``positions · A`` is the sum over all tasks. None is what totals among the
            artifacts were merged by, or ``size``.
        allow_indefinite: Whether a factor may have clearly negative eigenvalues.
        progress: Called with 1 after every block whose merge error is measured.

    Returns:
        The merged artifact, with the exact error of every block in its provenance.

    Raises:
        MismatchError: If the artifacts do not belong together, a task would be counted
            twice, or one to exclude is not in them; all differences are listed.
        FactorError: If a factor is clearly indefinite; it is named.
    """
    if not artifacts:
        raise MismatchError("there is nothing to merge")
    parts = [Part(a, 1) for a in artifacts] + [Part(a, -1) for a in exclude]
    check_same([part.artifact for part in parts])
    weighting = chosen_weighting([part.artifact for part in parts], weighting)
    sources = merged_sources(artifacts, exclude)
    warn_of_other_inputs(sources)
    if not allow_indefinite:
        for part in parts:
            check_definite(part.artifact)
    blocks, names = _shared(parts)
    by_positions = (
        position_weights([(part.artifact, part.sign) for part in parts], names)
        if weighting != WEIGHTINGS[0]
        else {}
    )
    summed = frozenset(name for b in blocks.values() for name in b.summed)
    errors = {} if exclude else merge_errors(artifacts, progress, weighting=weighting)
    sizes = (size for b in blocks.values() for size in b.sizes(artifacts[0].parameters))
    refitted = {name: block for name, block in blocks.items() if block.is_refitted}
    if refitted and exclude:
        raise MismatchError(
            f"{next(iter(refitted))} cannot be taken apart: of merged tasks an "
            f"{artifacts[0].provenance.estimator.name} artifact keeps what fits them "
            "together; merge the others, without the one to exclude"
        )
    sums = MergedFactors(parts, names, summed, dict(sizes), by_positions)
    factors = RefittedFactors(parts, refitted, sums)
    errors |= factors.errors()
    fitted = {name for block in refitted.values() for name in block.factors}
    losses = {name: sums.loss(name) for name in sums if name not in fitted}
    provenance = replace(
        artifacts[0].provenance,
        base=artifacts[0].provenance.base.known_as(
            artifact.provenance.base for artifact in artifacts[1:]
        ),
        estimator=merged_estimator(artifacts),
        tasks=sum(part.tasks for part in parts),
        size=sum(part.size for part in parts),
        sources=sources,
        excluded=tuple(dict.fromkeys(n for p in parts for n in p.excluded)),
        uncovered=_union(artifacts),
        merge_errors=errors,
        losses={name: loss for name, loss in losses.items() if loss is not None},
        weighting=weighting,
    )
    return Artifact(provenance, blocks, factors)


def _shared(
    parts: Sequence[Part],
) -> tuple[dict[str, Block], dict[str, tuple[str, ...]]]:
    """Name the merged factors; two blocks share one if they do in every artifact.

    Returns:
        The merged blocks, and for every factor its name in each artifact.
    """
    blocks: dict[str, Block] = {}
    merged: dict[tuple[str, ...], str] = {}
    signs = [part.sign for part in parts]
    for name, block in parts[0].artifact.blocks.items():
        all_of_it = [part.artifact.blocks[name] for part in parts]
        theirs = [each.factors for each in all_of_it]
        for number, key in enumerate(zip(*theirs, strict=True)):
            taken = key[0] in merged.values()
            merged.setdefault(key, f"{name}/{number}" if taken else key[0])
        own = [merged[key] for key in zip(*theirs, strict=True)]
        positions = merged_positions(all_of_it, signs)
        blocks[name] = block.with_factors(own).with_positions(positions)
    return blocks, {name: key for key, name in merged.items()}


def weights(provenance: Provenance) -> dict[str, float]:
    """The effective weight λ_t of every task: its share of all examples.

    Args:
        provenance: Of a merged artifact.

    Returns:
        Weights by ``<number> <name of the task>``, summing to one.
    """
    names = task_names(provenance.sources)
    shares = [source.data.size / provenance.size for source in provenance.sources]
    return {
        f"{i} {name}": share
        for i, (name, share) in enumerate(zip(names, shares, strict=True), 1)
    }


def _union(artifacts: Sequence[Artifact]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for artifact in artifacts:
        reasons |= artifact.provenance.uncovered
    return reasons
