"""An owner's own check: the artifact computed again, from the data that it names.

Blocks are compared by what they do to random matrices, so that neither the order of
terms nor signs of eigenvectors matter: over w with entries of N(0, 1) the mean of
``‖(G − G') w‖²`` is ``‖G − G'‖²`` in the Frobenius norm.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape
from typing import Any

import torch

from kfac_artifacts.artifact import Artifact, Block, Cotangents, Source
from kfac_artifacts.choices import NO_COTANGENTS
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.errors import SettingsError, listed
from kfac_artifacts.estimate.compute import compute
from kfac_artifacts.estimate.estimators.base import Estimator, choose_estimator
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.progress import Progress, silent
from kfac_artifacts.seeding import seeded
from kfac_artifacts.verify import Finding, base_findings

TOLERANCE = 1e-3
"""Relative difference that another batch size, device or version of torch explains."""
ROUNDED = 1e-2
"""What storing numbers in few bits adds to it."""
PROBES = 8
"""Random matrices that a block is applied to."""


def recompute(
    artifact: Artifact,
    network: Network,
    examples: Examples,
    *,
    only: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    batch_size: int = 32,
    progress: Progress = silent,
) -> list[Finding]:
    """Compute the blocks of an artifact again as its manifest says, and compare.

    The examples are those that its seed chooses, and its fingerprint proves. Where
    compressing lost something, twice as much is allowed besides the tolerance.

    Args:
        artifact: Of one task, computed by the native engine.
        network: The pretrained model and its output map.
        examples: The data, encoded as they were.
        only: Patterns of names of parameters; empty means all that are covered.
        tolerance: Largest relative difference of a block.
        batch_size: Examples per pass.
        progress: Shows how far it is.

    Returns:
        The findings; if model, output map or data are others, nothing is computed.

    Raises:
        SettingsError: If it cannot be computed again: it is of several tasks, or
            nothing that it covers is called like the patterns.
    """
    provenance = artifact.provenance
    if provenance.tasks != 1 or len(provenance.sources) != 1:
        raise SettingsError(
            f"the artifact is of {provenance.tasks} tasks; only that of one task can "
            "be computed again: give the artifacts that it was merged from"
        )
    wanted = _wanted(artifact, only)
    (source,) = provenance.sources
    if source.privacy is not None:
        raise SettingsError(
            "the artifact has noise that nobody can draw again; only one without can "
            "be computed again"
        )
    found = [*_of_model(artifact, network), _of_data(source, examples)]
    if not all(finding.good for finding in found):
        return found
    again = compute(
        network,
        examples,
        count=source.data.examples,
        cotangents=_cotangents(source),
        estimator=_estimator(artifact),
        only=[escape(name) for block in wanted.values() for name in block.parameters],
        tables=True,
        means=any(getattr(block, "constant", False) for block in wanted.values()),
        allow_few=True,
        batch_size=batch_size,
        progress=progress,
    )
    return [*found, _compared(artifact, again, wanted, tolerance)]


def _wanted(artifact: Artifact, only: Sequence[str]) -> dict[str, Block]:
    wanted = {
        name: block
        for name, block in artifact.blocks.items()
        if not only
        or any(fnmatchcase(p, each) for p in block.parameters for each in only)
    }
    if not wanted:
        raise SettingsError(
            f"the artifact covers nothing called {', '.join(only)}; it covers "
            f"{listed(sorted(artifact.parameters))}"
        )
    return wanted


def _of_model(artifact: Artifact, network: Network) -> list[Finding]:
    found = base_findings(artifact, network.base)
    ours, theirs = artifact.provenance.output_map, network.output_map.info
    if ours != theirs:
        found.append(Finding(False, "output map", f"{theirs}; the manifest has {ours}"))
    return found


def _of_data(source: Source, examples: Examples) -> Finding:
    """Whether these are the data, encoded as they were."""
    data = source.data
    if len(examples) != data.size:
        said = f"{len(examples)} examples; the manifest has {data.size}"
        return Finding(False, "data", said)
    chosen = choose_examples(data.size, data.examples, source.cotangents.seed)
    there = examples.info(chosen)
    if there.preprocessing != data.preprocessing:
        said = f"{there.preprocessing}; the manifest has {data.preprocessing}"
        return Finding(False, "preprocessing", said)
    if there.fingerprint != data.fingerprint:
        said = "the fingerprint of the chosen examples is another: they were changed"
        return Finding(False, "data", said)
    said = f"the same {data.examples} of {data.size} examples, by their fingerprint"
    return Finding(True, "data", said)


def _cotangents(source: Source) -> Cotangents:
    found = source.cotangents
    if found.name == NO_COTANGENTS:
        return Cotangents("orthogonal", 1, found.seed)
    return found


def _estimator(artifact: Artifact) -> Estimator:
    """The estimator with those of its options that the manifest tells."""
    told = artifact.provenance.estimator
    options: dict[str, Any] = {
        name: told.configuration[name]
        for name in ("terms", "shrinkage")
        if name in told.configuration
    }
    return choose_estimator(told.name, **options)


def _compared(
    artifact: Artifact, again: Artifact, wanted: Mapping[str, Block], tolerance: float
) -> Finding:
    missing = sorted(wanted.keys() - again.blocks.keys())
    if missing:
        said = f"{listed(missing)} cannot be computed from these data"
        return Finding(False, "recomputed", said)
    errors = {name: _difference(artifact, again, name) for name in wanted}
    allowed = {n: tolerance + _lost(artifact, block) for n, block in wanted.items()}
    bad = [name for name in wanted if not errors[name] <= allowed[name]]
    worst = max(wanted, key=lambda name: errors[name] - allowed[name])
    number = f"{errors[worst]:.1e} in {worst}, where {allowed[worst]:.1e} is allowed"
    if bad:
        said = f"{len(bad)} of {len(wanted)} blocks differ ({listed(bad, 3)}): {number}"
        return Finding(False, "recomputed", said)
    return Finding(True, "recomputed", f"{len(wanted)} blocks agree; {number}")


def _difference(artifact: Artifact, again: Artifact, name: str) -> float:
    """Relative Frobenius distance of a block, as far as random matrices tell it."""
    shape = artifact.blocks[name].matrix_shape(artifact.parameters)
    generator, apart, size = seeded(0), 0.0, 0.0
    own, new = _factors(artifact, name), _factors(again, name)
    for _ in range(PROBES):
        W = torch.randn(shape, generator=generator)
        stored = artifact.blocks[name].product(W, own)
        computed = again.blocks[name].product(W, new)
        apart += float((stored - computed).square().sum())
        size += float(computed.square().sum())
    return (apart / size) ** 0.5 if size else float(apart > 0)


def _factors(of: Artifact, name: str) -> dict[str, Any]:
    return {
        factor: of.factors[factor].to(dtype=torch.float32)
        for factor in of.blocks[name].factors
    }


def _lost(artifact: Artifact, block: Block) -> float:
    """What storing and compressing its factors may have changed of a block."""
    losses = artifact.provenance.losses
    lost = sum(2 * losses[name].error for name in block.factors if name in losses)
    exact = all(artifact.factors.is_exact(name) for name in block.factors)
    return lost + (0.0 if exact else ROUNDED)
