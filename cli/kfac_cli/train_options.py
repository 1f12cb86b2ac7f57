"""The many options of ``kfac train``, by what they are about."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import OPTIMIZERS, PENALTIES, REGIMES
from kfac_cli import console
from kfac_cli.groups import option, shared
from kfac_cli.options import batch_size_option, seed_option
from kfac_cli.parameters import COUNT, DIRECTORY, NATURAL, POSITIVE

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.network import LabelledExamples
    from kfac_artifacts.train import PenaltySettings, TrainSettings


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

    def load(self) -> "Artifact | None":
        """Load it, merged, without your own task; None if there is none."""
        from kfac_artifacts.format import load_artifact
        from kfac_artifacts.merge import merge

        added = [load_artifact(path) for path in self.curvatures]
        if len(added) < 2 and not self.exclude_own:
            return added[0] if added else None
        removed = [load_artifact(path) for path in self.exclude_own]
        with console.progress("merging", len(added[0].blocks), "modules") as advance:
            return merge(added, exclude=removed, progress=advance)


@dataclass(frozen=True)
class MethodOptions:
    """How the network moves, and by what it is held back."""

    regime: str = option(
        "--regime",
        type=click.Choice(list(REGIMES)),
        default="linearised",
        show_default=True,
        help="How the network moves.",
    )
    penalty: str | None = option(
        "--penalty",
        type=click.Choice(list(PENALTIES)),
        help="What holds it back. [default: kfac, if there is --curvature]",
    )


@dataclass(frozen=True)
class PenaltyOptions:
    """How much drift costs, and where."""

    weight: float = option(
        "--lambda",
        "weight",
        type=click.FloatRange(min=0),
        default=100.0,
        show_default=True,
        help="Factor of the penalty; 0 trains without.",
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
        )
