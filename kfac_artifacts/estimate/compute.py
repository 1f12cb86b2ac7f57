"""Model and data in, artifact out: the curvature of one task."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from kfac_artifacts.artifact import (
    Artifact,
    Cotangents,
    Privacy,
    Source,
)
from kfac_artifacts.capture import (
    Run,
    Sample,
    bounded,
    choose_cotangents,
    pair_to_prove,
    prove,
    require_enough,
    require_same_alone,
    requiring_gradients,
)
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.asked import Asked
from kfac_artifacts.estimate.checkpointing import Saver
from kfac_artifacts.estimate.description import describe
from kfac_artifacts.estimate.distributed.sharing import share_work
from kfac_artifacts.estimate.estimators.base import Estimator
from kfac_artifacts.estimate.estimators.kfac import Kfac
from kfac_artifacts.estimate.options import ALONE, ComputeOptions
from kfac_artifacts.estimate.private.accumulator import COUNTED
from kfac_artifacts.estimate.stages import estimate
from kfac_artifacts.estimate.streaming.compute import compute_streamed
from kfac_artifacts.estimate.streaming.network import StreamedNetwork
from kfac_artifacts.network import Examples, Network, RowsOfExamples
from kfac_artifacts.progress import Progress, silent
from kfac_artifacts.symmetric import tensor_cores

KFAC = Kfac()


def compute(  # noqa: PLR0913 - as many arguments as there are choices
    network: Network,
    examples: Examples,
    *,
    count: int = 256,
    cotangents: Cotangents | None = None,
    estimator: Estimator = KFAC,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tables: bool = False,
    means: bool = False,
    allow_few: bool = False,
    batch_size: int = 32,
    options: ComputeOptions = ALONE,
    progress: Progress = silent,
) -> Artifact:
    """Compute the Kronecker factors of the Jacobian Gramian at θ0 (TAK, Sec. 3.3).

    A is a mean over examples and positions; B is a mean over examples of the sum over
    positions, and over draws. No labels are used. The model is left as it was found.

    Under ``torchrun`` or ``accelerate launch`` every process calls this with the same
    arguments and takes its share of the examples. Each gets the whole artifact, or with
    ``ComputeOptions(shard=True)`` one whose factors are ``OwnedFactors``, for
    ``save_together``.

    Args:
        network: The pretrained model and its output map; of a ``StreamedNetwork`` one
            block is in memory at a time.
        examples: The data; ``count`` of them are chosen by the seed.
        count: How many examples to use; all, if there are fewer.
        cotangents: ``orthogonal``, ``mc`` or ``labels`` with draws and seed, or
            ``exact``; None for one ``labels`` draw of an f that is made of
            distributions, and an ``orthogonal`` one of any other.
        estimator: How the Gramian is approximated.
        only: Patterns of parameter names to cover; empty means every parameter.
        exclude: Patterns of parameter names to leave out.
        tables: Whether tables of tokens and positions are covered, which publishes the
            exact number of times that each token and each place occurs in the data.
        means: Whether the means of inputs are kept where there is no bias, as the last
            column of A; where there is one, they are in it anyway.
        allow_few: Whether fewer than 64 different examples are enough, although what is
            computed shows each of them (spec/privacy.md).
        batch_size: Examples per pass, at most; it changes nothing but speed and memory.
        options: Checkpoints, and how several processes share the work.
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
    cotangents = choose_cotangents(cotangents, network.output_map)
    indices = choose_examples(len(examples), count, cotangents.seed)
    if not allow_few:
        require_enough(examples, indices)
    estimator.check(len(indices))
    _check_hiding(estimator, examples, options, tables=tables)
    asked = Asked(
        examples,
        indices,
        cotangents,
        estimator,
        only,
        exclude,
        tables,
        means,
        batch_size,
        options,
        progress,
    )
    if isinstance(network, StreamedNetwork):
        return compute_streamed(network, asked)
    return _compute_whole(network, asked)


def _compute_whole(network: Network, asked: Asked) -> Artifact:
    """Compute with all of a network in memory."""
    examples, indices, estimator = asked.examples, asked.indices, asked.estimator
    sharing = share_work(network, len(indices), shard=asked.options.shard)
    used = sharing.network
    with sharing.workers.together():
        inventory = asked.take_inventory(used.module)
        pair = pair_to_prove(examples, indices)
        two = examples.batch(pair)
        own = partial(require_same_alone, used, examples, pair)
        coverage = prove(used, inventory, two, own)
    planned = estimator.planned_sums(coverage, used.shapes)
    sharing.assign_owners({name: each.shape for name, each in planned.items()})
    workers = sharing.workers
    sample = Sample(
        examples,
        indices,
        asked.pulled,
        bounded(asked.batch_size, network.output_map, two),
        (workers.rank, workers.size),
        network.output_map.classes,
    )
    source = asked.source
    base = network.base_of(coverage.parameters)
    settings = asked.settings(base, network, source, workers)
    workers.require_alike(
        {**settings, "checkpoint": asked.options, "batch size": asked.batch_size}
    )
    run = Run(used, coverage, sample, workers, asked.progress)
    saver = Saver(asked.options, workers, settings)
    frozen = requiring_gradients(used, wanted=False)
    with saver.held(), frozen, tensor_cores(), sharing.placed(coverage, two):
        found = estimate(run, estimator, saver)
        factors = {n: f.to("cpu") for n, f in found.all_factors().items()}
    provenance = describe(
        network,
        inventory,
        base=base,
        estimator=estimator.described(found),
        source=_published(source, found.privacy),
        size=len(examples),
    )
    return Artifact(provenance, found.blocks, sharing.collect(factors))


def _check_hiding(
    estimator: Estimator, examples: Examples, options: ComputeOptions, *, tables: bool
) -> None:
    if not estimator.hides:
        return
    if isinstance(examples, RowsOfExamples):
        raise SettingsError(
            "noise hides single examples, and which texts share a row depends on all "
            "of them; compute without --pack (pack=False)"
        )
    if options.directory is not None:
        raise SettingsError(
            "a checkpoint would keep the sums without noise; compute with noise "
            "without one, and without --resume"
        )
    if tables:
        raise SettingsError(f"{COUNTED}; compute without --include-tables")


def _published(source: Source, privacy: Privacy | None) -> Source:
    """What is told of a task: less, if noise hides its examples."""
    if privacy is None:
        return source
    # A fingerprint proves which examples there were: it is not of noise. This one is
    # of nothing, and only tells artifacts apart.
    nothing = secrets.token_hex(32)
    data = replace(source.data, fingerprint=nothing)
    return replace(source, data=data, privacy=privacy)
