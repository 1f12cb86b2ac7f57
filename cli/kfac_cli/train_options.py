"""The many options of ``kfac train``, by what they are about."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from kfac_artifacts.choices import (
    FACTOR_PLACES,
    OPTIMIZERS,
    PENALTIES,
    PENALTY_NEEDS,
    PRECISIONS,
    REGIME_SETTINGS,
    REGIMES,
)
from kfac_cli import console
from kfac_cli.groups import given, option, shared
from kfac_cli.options import batch_size_option, seed_option
from kfac_cli.parameters import (
    COUNT,
    DIRECTORY,
    NAMED,
    NATURAL,
    POSITIVE,
    Share,
    Weight,
)

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.network import LabelledExamples
    from kfac_artifacts.train import PenaltySettings, RegimeMaker, TrainSettings


def _weights(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    weights = {}
    for value in values:
        pattern, equals, number = value.rpartition("=")
        try:
            weights[pattern] = float(number)
        except ValueError:
            equals = ""
        if not equals or not pattern:
            raise click.BadParameter(f"{value!r} is not PATTERN=NUMBER")
    return weights


@dataclass(frozen=True)
class CurvatureOptions:
    """The curvature of the tasks of others."""

    curvatures: tuple[Path, ...] = option(
        "--curvature",
        "curvatures",
        type=DIRECTORY,
        multiple=True,
        help="Artifact of the other tasks; repeated ones are merged.",
    )
    exclude_own: tuple[Path, ...] = option(
        "--exclude-own",
        type=DIRECTORY,
        multiple=True,
        help="Artifact of your own task, if it is part of the curvature.",
    )

    @property
    def inputs(self) -> list[Path]:
        """All that is read."""
        return [*self.curvatures, *self.exclude_own]

    def load(self, *, merged: bool) -> "list[Artifact]":
        """Load it, merged into one, without your own task; or each by itself."""
        from kfac_artifacts.format import load_artifact
        from kfac_artifacts.merge import merge

        added = [load_artifact(path) for path in self.curvatures]
        if not merged or (len(added) < 2 and not self.exclude_own):
            return added
        removed = [load_artifact(path) for path in self.exclude_own]
        with console.progress("merging", len(added[0].blocks), "modules") as advance:
            return [merge(added, exclude=removed, progress=advance)]


FLAGS = {
    "rank": "--rank",
    "alpha": "--lora-alpha",
    "share": "--share",
    "path": "--path",
    "draw": "--draw",
}
"""Settings of regimes as they are given."""


@dataclass(frozen=True)
class MethodOptions:
    """How the network moves, and by what it is held back."""

    regime: str = option(
        "--regime",
        type=click.Choice(list(REGIMES)),
        default="linearised",
        show_default=True,
        help="How the network moves: linearised; as an ordinary one, or in its "
        "attention alone; by low-rank products (lora); in the weights that its outputs "
        "notice least (talos); or as an ordinary one that a linearised one teaches "
        "(delta).",
    )
    rank: int = option(
        "--rank",
        type=COUNT,
        default=16,
        show_default=True,
        help="Rank of every change, for lora.",
    )
    alpha: float | None = option(
        "--lora-alpha",
        "alpha",
        type=POSITIVE,
        help="Products of lora are multiplied by this and divided by the rank.  "
        "[default: the rank]",
    )
    share: float = option(
        "--share",
        type=Share(),
        default="10%",
        show_default=True,
        help="Share of the weights that move, for talos.",
    )
    path: tuple[float, float] = option(
        "--path",
        type=(float, float),
        default=(0.5, 2.0),
        show_default=True,
        metavar="LOW HIGH",
        help="Multiples of the task vector at which delta compares.",
    )
    draw: float = option(
        "--draw",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        help="Factor of the squared distance from the teacher, for delta.",
    )
    penalty: str | None = option(
        "--penalty",
        type=click.Choice(list(PENALTIES)),
        help="What holds it back: the drift under the curvature, merged (kfac) or of "
        "each artifact by itself (kfac-per-task); the drift on the data of others "
        "(tau-jp); orthogonal changes (orthoreg).  [default: kfac, if there is "
        "--curvature]",
    )
    others: tuple[str, ...] = option(
        "--others",
        type=NAMED,
        multiple=True,
        metavar="DATA",
        help="Data of another task for tau-jp, read as DATA is, without labels; may be "
        "repeated.",
    )

    def check(self, others: CurvatureOptions) -> None:
        """Refuse settings of another regime, and a penalty without what it is of."""
        for regime, settings in REGIME_SETTINGS.items():
            asked = [name for name in settings if given(name)]
            if asked and regime != self.regime:
                raise click.UsageError(f"{FLAGS[asked[0]]} goes with --regime {regime}")
        named = self.penalty or ("kfac" if others.curvatures else None)
        needs = PENALTY_NEEDS.get(named or "")
        for values, what, flag in (
            (others.curvatures, "curvatures", "--curvature"),
            (self.others, "examples", "--others"),
        ):
            if needs == what and not values:
                raise click.UsageError(f"--penalty {named} needs {flag}")
            if values and needs != what:
                uses = [name for name, use in PENALTY_NEEDS.items() if use == what]
                raise click.UsageError(f"{flag} goes with --penalty {', '.join(uses)}")
        if others.exclude_own and named == "kfac-per-task":
            raise click.UsageError(
                "--exclude-own does not go with kfac-per-task, which takes each "
                "artifact by itself: leave your own out"
            )

    def make(self) -> "RegimeMaker":
        """Choose the regime in the library, with the settings that were given."""
        from kfac_artifacts.train import choose_regime

        names = REGIME_SETTINGS.get(self.regime, ())
        settings = {name: getattr(self, name) for name in names}
        return choose_regime(self.regime, **settings)


@dataclass(frozen=True)
class PenaltyOptions:
    """How much drift costs, and where."""

    weight: float | Literal["auto"] | None = option(
        "--lambda",
        "weight",
        type=Weight(),
        help="Factor of the penalty; 0 trains without; auto chooses it by a few steps "
        "without penalty, so that it is as stiff as the loss.  [default: auto under "
        "curvature, 10 for tau-jp, 1 for orthoreg]",
    )
    every: int = option(
        "--every",
        type=COUNT,
        default=1,
        show_default=True,
        metavar="N",
        help="Evaluate the penalty in every Nth step only, times N.",
    )
    unscaled: bool = option(
        "--every-unscaled",
        "unscaled",
        is_flag=True,
        help="Leave out the times N.",
    )
    module_weights: Mapping[str, float] = option(
        "--module-weight",
        "module_weights",
        multiple=True,
        callback=_weights,
        metavar="PATTERN=X",
        help="Multiply the penalty of the blocks named so (`kfac inspect` lists "
        "them); may be repeated, and the first pattern that fits counts.",
    )
    allow_indefinite: bool = option(
        "--allow-indefinite",
        is_flag=True,
        help="Take curvature that clearly rewards drift along some directions.",
    )

    factors: str = option(
        "--factors",
        type=click.Choice(FACTOR_PLACES),
        default="auto",
        show_default=True,
        help="Where factors are held: on the device; or in the memory of the host, "
        "and copied block by block ahead of their turn; auto is the device if they "
        "fit into half of what is free there.",
    )

    def settings(self) -> "PenaltySettings":
        """Tell the library."""
        from kfac_artifacts.train import PenaltySettings

        return PenaltySettings(**vars(self))


@dataclass(frozen=True)
class OptimizerOptions:
    """What is trained, on what, and how long."""

    modules: tuple[str, ...] = option(
        "--modules",
        multiple=True,
        metavar="PATTERN",
        help="Train the parameters named so; may be repeated. [default: all that "
        "are covered]",
    )
    limit: int | None = option(
        "--examples",
        "limit",
        type=click.IntRange(min=2),
        help="How many examples to train on, chosen by the seed. [default: all]",
    )
    steps: int | None = option(
        "--steps",
        type=COUNT,
        help="How many steps of the optimizer. [default: 300]",
    )
    epochs: float | None = option(
        "--epochs",
        type=POSITIVE,
        help="How often to go through the examples instead.",
    )
    batch_size: int = shared(batch_size_option(what="step, over all processes"))
    accumulate: int = option(
        "--accumulate",
        type=COUNT,
        default=1,
        show_default=True,
        metavar="N",
        help="Go through the examples of a step in N parts, one after the other: the "
        "same step in less memory.",
    )
    precision: str = option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="float32",
        show_default=True,
        help="Of matrix products in the passes through the network; the task vector, "
        "losses and penalty stay in float32.",
    )
    learning_rate: float = option(
        "--lr",
        "learning_rate",
        type=POSITIVE,
        default=3e-4,
        show_default=True,
        help="Highest learning rate, reached after the warm-up.",
    )
    weight_decay: float | None = option(
        "--weight-decay",
        type=click.FloatRange(min=0),
        help="Pull of the task vector to zero. [default: 0.1 for images, 0.01 for "
        "text]",
    )
    warmup: int | None = option(
        "--warmup",
        type=NATURAL,
        metavar="STEPS",
        help="Steps until the highest learning rate. [default: a tenth of all, at "
        "most 500]",
    )
    optimizer: str = option(
        "--optimizer",
        type=click.Choice(list(OPTIMIZERS)),
        default="adamw",
        show_default=True,
        help="What makes the steps; adamw8bit keeps its moments in a quarter of the "
        "memory.",
    )
    seed: int = shared(seed_option("the choice and the order of the examples"))

    def check(self) -> None:
        """Refuse two answers."""
        if self.steps is not None and self.epochs is not None:
            raise click.UsageError("give --steps or --epochs, not both")

    def settings(
        self, examples: "LabelledExamples", penalty: PenaltyOptions
    ) -> "TrainSettings":
        """Tell the library, which knows what is usual for such examples."""
        from kfac_artifacts.train import TrainSettings

        usual = TrainSettings.usual(
            examples,
            steps=self.steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            limit=self.limit,
            weight_decay=self.weight_decay,
        )
        return replace(
            usual,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            penalty=penalty.settings(),
            modules=self.modules,
            seed=self.seed,
            optimizer=self.optimizer,
            accumulate=self.accumulate,
            precision=self.precision,
        )
