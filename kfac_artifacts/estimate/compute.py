"""Model and data in, artifact out: the curvature of one task."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict

from kfac_artifacts.artifact import (
    Artifact,
    BaseModel,
    Cotangents,
    Json,
    NamedConfig,
    Provenance,
    Source,
)
from kfac_artifacts.capture import cotangents as ct
from kfac_artifacts.capture.hooks import requiring_gradients
from kfac_artifacts.capture.independence import require_independence
from kfac_artifacts.capture.layers.inventory import constants_of, take_inventory
from kfac_artifacts.capture.proof import prove
from kfac_artifacts.capture.run import Progress, Run, silent
from kfac_artifacts.capture.sample import (
    Sample,
    pair_to_prove,
    require_enough,
)
from kfac_artifacts.chosen import choose
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.accumulator import sum_shapes
from kfac_artifacts.estimate.checkpointing import Saver
from kfac_artifacts.estimate.distributed.fsdp import sharded, twin
from kfac_artifacts.estimate.distributed.owned_factors import DealtFactors
from kfac_artifacts.estimate.options import (
    ALONE,
    KFAC,
    ORTHOGONAL,
    ComputeOptions,
    Estimator,
)
from kfac_artifacts.estimate.stages import estimate
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.symmetric import tensor_cores
from kfac_artifacts.workers import Workers


def compute(  # noqa: PLR0913 - as many arguments as there are choices
    network: Network,
    examples: Examples,
    *,
    count: int = 256,
    cotangents: Cotangents = ORTHOGONAL,
    estimator: Estimator = KFAC,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tables: bool = False,
    allow_few: bool = False,
    batch_size: int = 32,
    job: ComputeOptions = ALONE,
    progress: Progress = silent,
) -> Artifact:
    """Compute the Kronecker factors of the Jacobian Gramian at θ0 (TAK, Sec. 3.3).

    A is a mean over examples and positions; B is a mean over examples of the sum over
    positions, and over draws. No labels are used. The model is left as it was found.

    Under ``torchrun`` or ``accelerate launch`` every process calls this with the same
    arguments and takes its share of the examples. Each gets the whole artifact, or with
    ``ComputeOptions(shard=True)`` one whose factors are ``DealtFactors``, for
    ``save_together``.

    Args:
        network: The pretrained model and its output map.
        examples: The data; ``count`` of them are chosen by the seed.
        count: How many examples to use; all, if there are fewer.
        cotangents: ``orthogonal`` or ``mc`` with draws and seed, or ``exact``.
        estimator: How the Gramian is approximated.
        only: Patterns of parameter names to cover; empty means every parameter.
        exclude: Patterns of parameter names to leave out.
        tables: Whether tables of tokens and positions are covered, which publishes the
            exact number of times that each token and each place occurs in the data.
        allow_few: Whether fewer than 64 different examples are enough, although what is
            computed shows each of them (spec/privacy.md).
        batch_size: Examples per pass; it changes nothing but speed and memory.
        job: Checkpoints, and how several processes share the work.
        progress: Shows how far each stage is, counted in examples of this process.

    Returns:
        The artifact, in memory, on the CPU.

    Raises:
        SourceError: If there are no examples, or too few.
        CoverageError: If no parameter can be covered.
        SettingsError: If a setting is impossible.
        MismatchError: If there is a checkpoint of another job to go on from, or other
            processes were given another job.
        FormatError: If a checkpoint is damaged.
        PlaceError: If another run has the checkpoint.
        KfacError: If the network's output is not finite, or another process failed.
    """
    ct.check(cotangents)
    indices = choose(len(examples), count, cotangents.seed)
    if not allow_few:
        require_enough(examples, indices)
    estimator.check(len(indices))
    workers = Workers.gather(network.device)
    if len(indices) < workers.size:
        raise SettingsError(
            f"{len(indices)} examples are too few for {workers.size} processes; each "
            "needs at least one"
        )
    split = job.shard and workers.size > 1
    used = twin(network) if split else network
    with workers.together():
        inventory = take_inventory(
            used.module, only=tuple(only), exclude=tuple(exclude), tables=tables
        )
        pair = pair_to_prove(examples, indices)
        require_independence(used, examples, indices)
        coverage = prove(used, inventory, pair)
    if split:
        workers = workers.deal(sum_shapes(coverage, used.shapes))
    sample = Sample(
        examples, indices, cotangents, batch_size, (workers.rank, workers.size)
    )
    run = Run(used, coverage, sample, workers, progress)
    source = Source(examples.info(indices), cotangents)
    base = network.base_of(coverage.parameters)
    settings = _settings(base, network, source, estimator, workers)
    workers.require_alike({**settings, "checkpoint": job, "batch size": batch_size})
    place = sharded(network, used, coverage, pair, workers) if split else nullcontext()
    saver = Saver(job, workers, settings)
    with saver.held(), requiring_gradients(used, wanted=False), tensor_cores(), place:
        found = estimate(run, estimator, saver)
        factors = {n: f.to("cpu") for n, f in found.all_factors().items()}
    provenance = Provenance(
        base=base,
        output_map=network.output_map.info,
        estimator=_described(estimator, found.sweeps),
        tasks=1,
        size=len(examples),
        sources=(source,),
        excluded=tuple(inventory.excluded),
        uncovered=inventory.uncovered | constants_of(network),
    )
    return Artifact(
        provenance, found.blocks, DealtFactors(factors, workers) if split else factors
    )


def _described(estimator: Estimator, sweeps: int) -> NamedConfig:
    if estimator.name != "nearest":
        return NamedConfig(estimator.name)
    how = {"terms": estimator.terms, "shrinkage": estimator.shrinkage}
    return NamedConfig(estimator.name, {**how, "sweeps": sweeps})


def _settings(
    base: BaseModel,
    network: Network,
    source: Source,
    estimator: Estimator,
    workers: Workers,
) -> Mapping[str, Json]:
    """What must be the same for a checkpoint to be gone on from."""
    # how much is kept in memory changes no factor
    how = {k: v for k, v in asdict(estimator).items() if k != "memory"}
    return {
        "base": base.sha256,
        "dtype": str(network.dtype),
        "output_map": asdict(network.output_map.info),
        "source": asdict(source),
        "estimator": how,
        "processes": workers.size,
        "sharded": workers.sharded,
    }
