"""The other engine: factors of plain Linear and Conv2d modules by curvlinops' KFAC.

curvlinops covers no other kind of module, and where its assumptions fail it computes
something else in silence: it takes padding for text, ignores a tied weight's other use,
and sees no module that is used without being called. So only layers that are
proved are handed over, and every batch is watched. One operator is made for each
batch, and the batches are averaged here: A by examples and positions, B by examples, so
texts of several lengths are exact as long as no batch is padded.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch

from kfac_artifacts import curvlinops_adapter
from kfac_artifacts.artifact import (
    Artifact,
    Block,
    Cotangents,
    HeldFactors,
    Json,
    KroneckerBlock,
    Layout,
    NamedConfig,
    Source,
)
from kfac_artifacts.capture import (
    Layer,
    check_cotangents,
    prove,
    require_enough,
    require_independence,
    requiring_gradients,
    take_inventory,
)
from kfac_artifacts.choices import ESTIMATORS
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.curvlinops_engine.batch_means import Means, Watched
from kfac_artifacts.estimate.description import describe
from kfac_artifacts.estimate.estimators.base import Estimator
from kfac_artifacts.estimate.estimators.kfac import Kfac
from kfac_artifacts.factors import Dense, Factor
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.progress import Progress, silent

ONE_DRAW = Cotangents("mc", 1, 0)
KFAC = Kfac()


def compute_with_curvlinops(  # noqa: PLR0913 - those of compute, and the estimator
    network: Network,
    examples: Examples,
    *,
    estimator: Estimator = KFAC,
    count: int = 256,
    cotangents: Cotangents = ONE_DRAW,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tables: bool = False,
    allow_few: bool = False,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Artifact:
    """Compute what curvlinops covers of the curvature, in this package's normalisers.

    With ``exact`` cotangents the factors are those of ``compute``. With ``mc`` the
    draws are curvlinops' own: unbiased too, but they depend on the batch size.

    Args:
        network: The pretrained model and its output map, in float32 or float64.
        examples: The data; ``count`` of them are chosen by the seed, as by ``compute``.
        estimator: ``Kfac`` (expand), or ``KfacReduce``.
        count: How many examples to use; all, if there are fewer.
        cotangents: ``mc`` with draws and seed, or ``exact``.
        only: Patterns of parameter names to cover; empty means every parameter.
        exclude: Patterns of parameter names to leave out.
        tables: As of ``compute``; curvlinops covers none in any case.
        allow_few: As of ``compute``.
        batch_size: Examples per pass.
        progress: Shows how many examples are done.

    Returns:
        The artifact, in memory, on the CPU; what curvlinops does not cover is in its
        ``uncovered`` with the reason.

    Raises:
        SourceError: If there are no examples, or too few.
        SettingsError: If curvlinops is not installed, or cannot do what is asked.
        CoverageError: If no parameter can be covered, or a batch is padded.
    """
    approximation = _check(network, estimator, cotangents)
    indices = choose_examples(len(examples), count, cotangents.seed)
    if not allow_few:
        require_enough(examples, indices)
    inventory = take_inventory(
        network.module, only=tuple(only), exclude=tuple(exclude), tables=tables
    )
    if batch_size > 1:  # it takes examples of several shapes one by one only
        require_independence(network, examples, indices)
    first = examples.batch([indices[0], indices[-1]])
    coverage = prove(network, inventory, first)
    model = Watched(network, coverage, inventory, first)
    means = Means()
    with (
        requiring_gradients(network, wanted=True),
        torch.enable_grad(),
        progress("computing with curvlinops", len(indices)) as advance,
    ):
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            settings = curvlinops_adapter.Settings(
                approximation,
                cotangents.draws,
                _seed(cotangents.seed, batch[0]),
            )
            model.add_batch(examples.batch(batch), batch, settings, means)
            advance(len(batch))
    blocks, factors = _blocks(model.layers, coverage.leaders, means)
    engine: dict[str, Json] = {"engine": "curvlinops"}
    engine["version"] = curvlinops_adapter.version()
    covered = {p for block in blocks.values() for p in block.parameters}
    provenance = describe(
        network,
        inventory,
        base=network.base_of(covered),
        estimator=NamedConfig(estimator.name, engine),
        source=Source(examples.info(indices), cotangents),
        size=len(examples),
    )
    return Artifact(provenance, blocks, HeldFactors(factors))


def _check(network: Network, estimator: Estimator, cotangents: Cotangents) -> str:
    """Refuse what curvlinops cannot do; else say what it calls the approximation."""
    curvlinops_adapter.version()
    if estimator.hides:
        raise SettingsError("noise goes with the native engine, not with curvlinops")
    if estimator.curvlinops is None:
        known = tuple(name for name, kind in ESTIMATORS.items() if kind.curvlinops)
        raise SettingsError(
            f"curvlinops has no estimator {estimator.name!r}; choose from {known}, or "
            "use the native engine"
        )
    if cotangents.name not in {"mc", "exact"}:
        raise SettingsError(
            f"curvlinops has no cotangents {cotangents.name!r}; choose mc or exact, or "
            "use the native engine"
        )
    check_cotangents(cotangents, network.output_map)
    if network.dtype not in {torch.float32, torch.float64}:
        raise SettingsError(
            f"curvlinops sums up in the network's own number type, and {network.dtype} "
            "is too coarse; load the model in float32, or use the native engine"
        )
    return estimator.curvlinops


def _seed(seed: int, index: int) -> int:
    """The seed of a batch's draws, by its first example."""
    digest = hashlib.sha256(f"curvlinops:{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _blocks(
    layers: Sequence[Layer], leaders: Mapping[Layer, Layer], means: Means
) -> tuple[dict[str, Block], dict[str, Factor]]:
    """Turn the means into blocks; layers with one input share its A."""
    blocks: dict[str, Block] = {}
    factors: dict[str, Factor] = {}
    for layer in layers:
        own, leader = f"{layer.name}.A", f"{leaders.get(layer, layer).name}.A"
        A, b = means[own], f"{layer.name}.B"
        shared = factors.get(leader)
        if not (isinstance(shared, Dense) and torch.equal(shared.to_dense(), A)):
            leader = own
            factors[own] = Dense(A)
        factors[b] = Dense(means[b])
        weight, bias = layer.parameters["weight"], layer.parameters.get("bias")
        block = KroneckerBlock(weight, bias, Layout.ROWS, ((leader, b),))
        blocks[layer.name] = block.with_positions(means.count(own))
    return blocks, factors
