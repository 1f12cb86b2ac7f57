"""How well an artifact predicts drift on data that it has not seen."""

from collections.abc import Mapping, Sequence
from functools import reduce
from glob import escape
from operator import add

from kfac_artifacts.artifact import Artifact, Cotangents, require_curvature_of
from kfac_artifacts.capture import (
    Coverage,
    Run,
    Sample,
    bounded,
    pair_to_prove,
    prove,
    requiring_gradients,
    take_inventory,
)
from kfac_artifacts.choices import KEPT_BYTES
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.fidelity.block_errors import MeasuredBlock, measure_blocks
from kfac_artifacts.fidelity.directions import (
    BATCH,
    Direction,
    Random,
    gradients,
    trained,
)
from kfac_artifacts.fidelity.global_drift import compare_directions, true_drifts
from kfac_artifacts.fidelity.heldout import Choice, hold_out
from kfac_artifacts.fidelity.results import Comparison, Fidelity, ModuleFidelity
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.progress import Progress, silent
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.workers import Workers

OWN_SEEDS = 2**32
"""Added to the seed, so that no cotangent is one that the artifact was made with."""


def fidelity(  # noqa: PLR0913 - as many arguments as there are choices
    artifact: Artifact,
    network: Network,
    examples: Examples,
    *,
    count: int = 256,
    seed: int = 0,
    draws: int | None = 1,
    directions: int = 4,
    directions_data: Examples | None = None,
    task_vectors: Mapping[str, TaskVector] | None = None,
    memory: int = KEPT_BYTES,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Fidelity:
    """Compare an artifact with the true curvature on held-out data.

    Of every block and of all together, the relative Frobenius error, estimated without
    bias; and the drift that is predicted along random directions, gradients of other
    data and task vectors, beside the true one. Examples that the artifact was computed
    from are left out. The model is left as it was found.

    Args:
        artifact: The artifact.
        network: The pretrained model and its output map.
        examples: The data; ``count`` of them are chosen by the seed.
        count: How many examples to use; all, if there are fewer.
        seed: Seed of the choice, the cotangents and the directions.
        draws: Random cotangents per example; None for all unit vectors.
        directions: How many random directions, and how many gradients.
        directions_data: Data that the gradients are of; None for others of the same.
        task_vectors: Task vectors by what to call them.
        memory: Bytes of activations to keep; modules that do not fit together are
            recorded one group after the other.
        batch_size: Examples per pass; it changes nothing but speed and memory.
        progress: Shows how far each stage is, counted in examples.

    Returns:
        What was found.

    Raises:
        MismatchError: If the artifact, or a task vector, is of another model.
        CoverageError: If the model does not have the artifact's blocks.
        SettingsError: If a number is impossible, too few examples are left, or the
            memory is too small for one module.
        SourceError: If there is no example.
    """
    if count < 1 or directions < 0 or memory < 1 or (draws is not None and draws < 1):
        raise SettingsError("examples, draws and memory must be at least 1")
    require_curvature_of(artifact.provenance, network.base, network.output_map.info)
    spare = directions * BATCH if directions_data is None else 0
    chosen = hold_out(artifact, examples, count, seed, spare=spare)
    coverage = _prove(artifact, network, examples, chosen.indices)
    classes = network.output_map.classes
    drawn = "labels" if classes else "mc"  # orthogonal ones are not independent
    kind = "exact" if draws is None else drawn
    cotangents = Cotangents(kind, draws, seed + OWN_SEEDS)
    few = examples.batch(chosen.indices[:2])
    size = bounded(batch_size, network.output_map, few)
    sample = Sample(examples, chosen.indices, cotangents, size, classes=classes)
    workers = Workers(device=network.device)
    run = Run(network, coverage, sample, workers, progress)
    along = [
        *(Random(network, seed, number) for number in range(directions)),
        *_gradients(network, examples, chosen, directions_data, directions, seed),
        *trained(network, list(artifact.parameters), task_vectors or {}),
    ]
    with requiring_gradients(network, wanted=False):
        blocks = measure_blocks(run, artifact, along, memory)
        true = true_drifts(run, list(artifact.parameters), along)
    return Fidelity(
        digest=artifact.digest,
        estimator=str(artifact.provenance.estimator),
        held_out=chosen.held_out,
        cotangents=cotangents,
        modules=[
            ModuleFidelity(n, b.kind, b.moments.compare(), b.by_kind(along))
            for n, b in blocks.items()
        ],
        total=_together(list(blocks.values())),
        kinds={
            kind: _together([block for block in blocks.values() if block.kind == kind])
            for kind in sorted({block.kind for block in blocks.values()})
        },
        directions=compare_directions(along, true, list(blocks.values())),
    )


def _together(blocks: Sequence[MeasuredBlock]) -> Comparison:
    """Compare several blocks as one block-diagonal matrix."""
    return reduce(add, [block.moments for block in blocks]).compare()


def _gradients(
    network: Network,
    examples: Examples,
    chosen: Choice,
    other: Examples | None,
    count: int,
    seed: int,
) -> list[Direction]:
    if other is None:
        return gradients(network, examples, chosen.spare, seed)
    if not count:
        return []
    indices = choose_examples(len(other), count * BATCH, seed)
    return gradients(network, other, indices, seed)


def _prove(
    artifact: Artifact, network: Network, examples: Examples, indices: Sequence[int]
) -> Coverage:
    """Prove that the model has the artifact's blocks."""
    names = tuple(escape(name) for name in artifact.parameters)
    inventory = take_inventory(network.module, only=names)
    batch = examples.batch(pair_to_prove(examples, indices))
    coverage = prove(network, inventory, batch)
    there = {
        block.covers
        for layer in coverage.layers
        for block in layer.blocks(layer).values()
    }
    missing = [n for n, b in artifact.blocks.items() if b.covers not in there]
    if missing:
        reasons = sorted(set(inventory.uncovered.values()))
        raise CoverageError(
            f"{network.id} does not have {len(missing)} of the artifact's "
            f"{len(artifact.blocks)} blocks, for example {', '.join(missing[:3])}"
            f"{': ' * bool(reasons)}{'; '.join(reasons)}"
        )
    return coverage
