"""The many options of ``kfac compute``, by what they are about."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import COTANGENTS, ESTIMATORS, FORWARD_ONLY, HIDING
from kfac_cli.groups import given, option, shared
from kfac_cli.options import memory_option, vectors_per_example
from kfac_cli.parameters import COUNT, NAMED, POSITIVE

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact, Cotangents
    from kfac_artifacts.estimate import Estimator, GaussianNoise
    from kfac_artifacts.network import Network
    from kfac_artifacts.sources import Data
    from kfac_cli.data import ChatDataOptions, EncodeOptions
    from kfac_cli.options import ModelOptions


@dataclass(frozen=True)
class EstimatorOptions:
    """How the curvature is approximated."""

    name: str = option(
        "--estimator",
        "name",
        type=click.Choice(list(ESTIMATORS)),
        default="kfac",
        show_default=True,
        help="KFAC-expand as in TAK, KFAC-reduce; or more accurate, for more work: "
        "the nearest Kronecker products, EK-FAC (corrected eigenvalues); or less: the "
        "inputs alone, by forward passes; the diagonal.",
    )
    terms: int = option(
        "--terms",
        type=COUNT,
        default=1,
        show_default=True,
        help="Products per module, for nearest.",
    )
    shrinkage: bool = option(
        "--shrinkage/--no-shrinkage",
        default=True,
        show_default=True,
        help="Whether nearest and ekfac guard against learning the noise of few "
        "examples.",
    )
    memory: int = shared(
        memory_option(
            "Activations that nearest and ekfac may keep; what does not fit is "
            "computed again."
        )
    )

    def check(self, drawing: "CotangentOptions") -> None:
        """Refuse cotangents for what pulls nothing back."""
        asked = [o for o in (drawing.kind, drawing.draws) if o is not None]
        if asked and self.name in FORWARD_ONLY:
            raise click.UsageError(
                f"--estimator {self.name} goes forward only: give no --cotangents and "
                "no --draws"
            )

    def estimator(self, noise: "GaussianNoise | None") -> "Estimator":
        """Choose it in the library."""
        from kfac_artifacts.estimate import choose_estimator

        options = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "name" and given(field.name)
        }
        options |= {} if noise is None else {"noise": noise}
        return choose_estimator(self.name, **options)


@dataclass(frozen=True)
class NoiseOptions:
    """Whether noise hides each example, and how well."""

    epsilon: float | None = option(
        "--dp-epsilon",
        "epsilon",
        type=POSITIVE,
        metavar="ε",
        help="Add noise that hides each example, by (ε, δ)-differential privacy; for "
        "kfac and inputs. Of few examples it leaves nothing: see `kfac fidelity`.",
    )
    delta: float | None = option(
        "--dp-delta",
        "delta",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="δ",
        help="Much less than one over the number of examples.",
    )
    public: str | None = option(
        "--dp-public",
        "public",
        type=NAMED,
        metavar="DATA",
        help="Public data of the same kind, of which is found how large the "
        "contribution of an example usually is, to cut off larger ones.",
    )

    def check(self, estimating: EstimatorOptions, running: "RunOptions") -> None:
        """Refuse what does not go together."""
        asked = (self.epsilon, self.delta, self.public)
        if all(value is None for value in asked):
            return
        if any(value is None for value in asked):
            raise click.UsageError(
                "--dp-epsilon, --dp-delta and --dp-public go together"
            )
        if estimating.name not in HIDING:
            raise click.UsageError(
                f"noise does not go with --estimator {estimating.name}, but with "
                f"{' and '.join(HIDING)}"
            )
        if running.resume or running.stream or not running.native:
            raise click.UsageError(
                "noise goes neither with --resume nor with --stream nor with another "
                "engine"
            )

    def read(self, reading: "ChatDataOptions") -> "Data | None":
        """Read the public data, as those that are to be hidden."""
        return None if self.public is None else reading.read_any(self.public)

    def noise(
        self, public: "Data | None", encoding: "EncodeOptions", network: "Network"
    ) -> "GaussianNoise | None":
        """Choose it in the library."""
        if self.epsilon is None or self.delta is None or public is None:
            return None
        from kfac_artifacts.estimate import GaussianNoise

        clip = encoding.encode(public, network)
        return GaussianNoise(self.epsilon, self.delta, clip)


@dataclass(frozen=True)
class CotangentOptions:
    """What is backpropagated."""

    kind: str | None = option(
        "--cotangents",
        "kind",
        type=click.Choice(COTANGENTS),
        help="Random vectors, orthogonal from example to example, or independent "
        "ones; labels drawn from the probabilities that f is made of; or all unit "
        "vectors (as many passes as f has outputs).  "
        "[default: orthogonal, or labels; with curvlinops mc]",
    )
    draws: int | None = option(
        "--draws", type=COUNT, help="Random vectors per example.  [default: 1]"
    )

    def vectors(self) -> int | None:
        """Random vectors per example; None for all unit vectors."""
        return vectors_per_example(self.kind, self.draws)

    def cotangents(self, usual: str, seed: int) -> "Cotangents":
        """Choose them, ``usual`` ones unless asked for others."""
        from kfac_artifacts.artifact import Cotangents

        return Cotangents(self.kind or usual, self.vectors(), seed)


@dataclass(frozen=True)
class RunOptions:
    """By whom and how the work is done; nothing of it changes the result."""

    engine: str = option(
        "--engine",
        type=click.Choice(["native", "curvlinops"]),
        default="native",
        show_default=True,
        help="Who computes; curvlinops covers plain Linear and Conv2d modules only.",
    )
    resume: bool = option(
        "--resume",
        is_flag=True,
        help="Go on from the checkpoint of an interrupted run.",
    )
    every: int = option(
        "--checkpoint-every",
        "every",
        type=COUNT,
        default=4,
        show_default=True,
        metavar="BATCHES",
        help="How often to keep what is done, at most.",
    )
    shard: bool = option(
        "--shard",
        is_flag=True,
        help="With several processes: split the model (FSDP), and keep each factor "
        "on one of them alone.",
    )

    stream: bool = option(
        "--stream",
        is_flag=True,
        help="Have one block of the model in memory at a time, with its factors: "
        "weights are read from their files, hidden states and factors lie on disk "
        "meanwhile. The same numbers.",
    )

    @property
    def native(self) -> bool:
        """Whether the engine is ours."""
        return self.engine == "native"

    def load(
        self, loading: "ModelOptions", model: str, model_id: str | None
    ) -> "Network":
        """Load the model, or leave its weights in their files."""
        load = loading.load_streamed if self.stream else loading.load
        return load(model, model_id)

    def usual_cotangents(self, network: "Network") -> str:
        """The cotangents of the engine unless others are asked for."""
        from kfac_artifacts.capture import usual_cotangents

        return usual_cotangents(network.output_map).name if self.native else "mc"

    def check(self, *, means: bool) -> None:
        """Refuse what the engine cannot do."""
        if means and not self.native:
            raise click.UsageError("--means does not go with --engine curvlinops")
        if not self.native and (self.resume or self.shard):
            raise click.UsageError("--resume and --shard go with the native engine")
        if self.stream and (self.shard or not self.native):
            raise click.UsageError(
                "--stream goes with the native engine, in one process, without --shard"
            )

    def engine_with(self, checkpoint: Path | None) -> "Callable[..., Artifact]":
        """Give the library's function that computes, with what is kept meanwhile."""
        from kfac_artifacts.estimate import (
            ComputeOptions,
            compute,
            compute_with_curvlinops,
        )

        if not self.native:
            return compute_with_curvlinops
        options = ComputeOptions(checkpoint, self.resume, self.every, self.shard)
        return partial(compute, options=options)
