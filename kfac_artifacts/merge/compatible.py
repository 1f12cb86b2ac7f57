"""Which artifacts belong together, and which tasks are in the result."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from kfac_artifacts.artifact import (
    Artifact,
    Block,
    NamedConfig,
    Source,
    preprocessing_differences,
    task_names,
)
from kfac_artifacts.canonical import digest_of
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.lineage import named_sources

logger = logging.getLogger(__name__)

MOST_EXAMPLES = 2**53 - 1
"""Whole numbers up to it are exact wherever JSON is read."""


def check_same(artifacts: Sequence[Artifact]) -> None:
    """Refuse artifacts that do not belong together, with all differences at once."""
    first = artifacts[0]
    for name, block in first.blocks.items():
        if block.summed and len(block.terms) != 1:
            raise MismatchError(
                f"{name} is a sum of {len(block.terms)} Kronecker products; merging by "
                "Eq. 8 is for one"
            )
    differences: list[str] = []
    for number, other in enumerate(artifacts[1:], 2):
        differences += [
            f"artifact {number} has {what} {theirs}, artifact 1 has {ours}"
            for what, ours, theirs in _differences(first, other)
        ]
    if differences:
        raise MismatchError(
            "these artifacts cannot be merged:\n  " + "\n  ".join(differences)
        )


def has_total(artifact: Artifact) -> bool:
    """Whether an artifact can be merged with others that fit it."""
    return all(not b.summed or len(b.terms) == 1 for b in artifact.blocks.values())


def fit_of(artifact: Artifact) -> str:
    """Name by a digest what artifacts must agree in to be merged (R11.1)."""
    about = artifact.provenance
    return digest_of(
        {
            "parameters": {
                name: [list(info.shape), info.sha256]
                for name, info in about.base.parameters.items()
            },
            "output_map": asdict(about.output_map),
            "estimator": about.estimator.name,
            "blocks": {n: _arrangement(b) for n, b in artifact.blocks.items()},
        }
    )


def _differences(one: Artifact, other: Artifact) -> Iterator[tuple[str, str, str]]:
    """What tells two artifacts apart, of that which must be the same."""
    p, q = one.provenance, other.provenance
    if p.estimator.name != q.estimator.name:
        yield "estimator", p.estimator.name, q.estimator.name
    if p.output_map != q.output_map:
        yield "output map", str(p.output_map), str(q.output_map)
    shared = p.base.parameters.keys() & q.base.parameters.keys()
    changed = sorted(n for n in shared if p.base.parameters[n] != q.base.parameters[n])
    if changed:
        what = f"{len(changed)} other base weights (first {changed[0]}), base model"
        yield what, p.base.id, q.base.id
    missing = sorted(p.base.parameters.keys() ^ q.base.parameters.keys())
    if missing:
        count = f"{len(missing)} parameters not in both (first {missing[0]}), covering"
        yield count, str(len(p.base.parameters)), str(len(q.base.parameters))
    else:
        yield from _block_differences(one, other)


def _block_differences(
    one: Artifact, other: Artifact
) -> Iterator[tuple[str, str, str]]:
    """What tells the blocks apart, whatever their factors are called."""
    apart = sorted(one.blocks.keys() ^ other.blocks.keys())
    if apart:
        count = f"{len(apart)} blocks not in both (first {apart[0]}), blocks"
        yield count, str(len(one.blocks)), str(len(other.blocks))
    changed: dict[str, list[str]] = {}
    for name in sorted(one.blocks.keys() & other.blocks.keys()):
        ours, theirs = _arrangement(one.blocks[name]), _arrangement(other.blocks[name])
        keys = ["kind"] if ours["kind"] != theirs["kind"] else ours | theirs
        for key in keys:
            if ours.get(key) != theirs.get(key):
                changed.setdefault(key, []).append(name)
    for key, names in changed.items():
        first = names[0]
        what = f"{len(names)} blocks of another {key} (first {first}):"
        ours, theirs = (_arrangement(a.blocks[first]) for a in (one, other))
        yield what, str(ours.get(key)), str(theirs.get(key))


def _arrangement(block: Block) -> dict[str, object]:
    """What is said of a block beside its factors and what they are the mean of."""
    unnamed = block.with_factors([""] * len(block.factors))
    return unnamed.with_positions(None).to_json()


def merged_estimator(artifacts: Sequence[Artifact]) -> NamedConfig:
    """The estimator that all have, described as far as it is true of all."""
    first, *others = [artifact.provenance.estimator for artifact in artifacts]
    shared = {
        key: value
        for key, value in first.configuration.items()
        if all(other.configuration.get(key) == value for other in others)
    }
    return NamedConfig(first.name, shared)


def merged_sources(
    artifacts: Sequence[Artifact], exclude: Sequence[Artifact]
) -> tuple[Source, ...]:
    """The tasks that are in the result; each named by the artifact it came from."""
    kept = [source for a in artifacts for source in named_sources(a)]
    _check_once(kept)
    for artifact in exclude:
        for source in named_sources(artifact):
            same = [own for own in kept if _is_same(own, source)]
            if not same:
                own, *names = task_names([source, *kept])
                raise MismatchError(
                    f"{own} cannot be excluded: it is not among the merged tasks "
                    f"{', '.join(names)}"
                )
            kept.remove(same[0])
    if not kept:
        raise MismatchError("nothing is left: every task was excluded")
    size = sum(source.data.size for source in kept)
    if size > MOST_EXAMPLES:
        raise MismatchError(
            f"the tasks have {size} examples together, more than the {MOST_EXAMPLES} "
            "that an artifact can tell of; merge fewer"
        )
    return tuple(kept)


def _is_same(one: Source, other: Source) -> bool:
    """Whether two are one task: by digest, unless they have never been stored."""
    if one.digest is None and other.digest is None:
        return one == other
    return one.digest == other.digest


def warn_of_other_inputs(sources: Sequence[Source]) -> None:
    """Log which tasks were computed from inputs made in another way than the first."""
    names = task_names(sources)
    first = sources[0].data.preprocessing
    for name, source in zip(names[1:], sources[1:], strict=True):
        differences = preprocessing_differences(source.data.preprocessing, first)
        if differences:
            logger.warning(
                "%s was computed from other inputs than %s: %s",
                name,
                names[0],
                "; ".join(differences),
            )


def _check_once(sources: Sequence[Source]) -> None:
    """Refuse a task that is counted twice; without digests none can be recognised."""
    digests = [source.digest for source in sources]
    twice = {
        name
        for digest, name in zip(digests, task_names(sources), strict=True)
        if digest and digests.count(digest) > 1
    }
    if twice:
        raise MismatchError(
            f"a task would be counted twice: {', '.join(sorted(twice))}; give every "
            "artifact once, and no part of a merged one beside it"
        )
