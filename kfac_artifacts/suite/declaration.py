"""What a suite is: tasks, the curvature of each, and the arms that are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kfac_artifacts.artifact import Json

SELECT = ("linear", "plain")
SEARCHES = ("grid", "cross")


@dataclass(frozen=True)
class TaskSpec:
    """One task: its data, and how they are read.

    Attributes:
        name: What it is called.
        train: Data to train on; a file, a folder or a Hub id.
        test: Data that are reported on.
        validation: Data to choose by; None for a tenth of the training data, at most
            1 000, chosen by the first seed and then left out of training.
        splits: Names of the splits of the three, ``train`` where there is none.
        text_columns: Columns of texts; none for the usual names.
        label_column: Column of the classes.
        image_column: Column of images, if it is to be named.
        head: ``texts`` or ``prototypes``; None for texts, if classes are words.
        template: Text around the name of a class.
        logit_scale: Factor from cosines to logits; None for what is usual.
        limit: Train on so many examples; None for all.
    """

    name: str
    train: str
    test: str
    validation: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    text_columns: tuple[str, ...] = ()
    label_column: str = "label"
    image_column: str | None = None
    head: str | None = None
    template: str = "{}"
    logit_scale: float | None = None
    limit: int | None = None


@dataclass(frozen=True)
class CurvatureSpec:
    """How the curvature of every task is computed.

    Attributes:
        name: What arms call it.
        estimator: One of ``choices.ESTIMATORS``.
        examples: Examples per task.
        cotangents: ``orthogonal``, ``mc`` or ``exact``.
        draws: Cotangents per example; None with ``exact``.
        recipe: How what is merged of the others is compressed; None for not at all.
        reference: Data of which one curvature stands for all others (TAK, Table 6);
            None for that of every other task.
    """

    name: str
    estimator: str = "kfac"
    examples: int = 256
    cotangents: str = "orthogonal"
    draws: int | None = 1
    recipe: str | None = None
    reference: str | None = None


@dataclass(frozen=True)
class MergeSpec:
    """How task vectors are merged.

    Attributes:
        method: One of ``choices.MERGES``.
        settings: Its settings.
        curvature: Name of the curvature that regmean takes A from; None for that of the
            arm.
    """

    method: str = "sum"
    settings: Mapping[str, Json] = field(default_factory=dict)
    curvature: str | None = None

    @property
    def name(self) -> str:
        """The method, with its settings."""
        about = [f"{name} {value}" for name, value in self.settings.items()]
        of = [] if self.curvature is None else [f"of {self.curvature}"]
        return " ".join([self.method, *about, *of])


@dataclass(frozen=True)
class Arm:
    """One way to train, and to merge.

    Attributes:
        name: What it is called.
        regime: One of ``choices.REGIMES``.
        regime_settings: Its settings.
        penalty: One of ``choices.PENALTIES``; None for that of the curvature, if any.
        curvature: Name of the curvature that it uses.
        rates: Learning rates to choose from.
        weights: Weights λ of the penalty to choose from; None is what is usual for it.
        every: The penalty counts in every Nth step.
        select: By which mode's accuracy is chosen: ``linear`` or ``plain``.
        merges: How the same task vectors are merged.
        tasks: Names of the tasks that it is for, two or more; none for all.
        training: Settings of ``TrainSettings`` in place of those of the suite.
    """

    name: str
    regime: str = "linearised"
    regime_settings: Mapping[str, Json] = field(default_factory=dict)
    penalty: str | None = None
    curvature: str | None = None
    rates: tuple[float, ...] = (3e-4,)
    weights: tuple[float | None, ...] = (None,)
    every: int = 1
    select: str = "linear"
    merges: tuple[MergeSpec, ...] = (MergeSpec(),)
    tasks: tuple[str, ...] = ()
    training: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Tasks of one model, and the arms that are compared on them.

    Attributes:
        name: What it is called.
        model: Directory or Hub id.
        tasks: Two or more.
        curvatures: How curvature is computed.
        arms: What is compared.
        seeds: Of curvature and training; the first is that of the search.
        modules: Patterns of parameters that curvature covers and training moves.
        alphas: Factors of which one is chosen on validation data, beside α = 1.
        search: ``grid`` tries all rates with all weights; ``cross`` all rates with the
            middle weight, and then the other weights with the best rate.
        max_length: Tokens after which texts are cut off; None for what the model takes.
        training: Settings of ``TrainSettings`` for all arms.
        output_map: Name of the output map; None for the usual one.
    """

    name: str
    model: str
    tasks: tuple[TaskSpec, ...]
    arms: tuple[Arm, ...]
    curvatures: tuple[CurvatureSpec, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    modules: tuple[str, ...] = ()
    alphas: tuple[float, ...] = ()
    search: str = "grid"
    max_length: int | None = None
    training: Mapping[str, Json] = field(default_factory=dict)
    output_map: str | None = None

    def tasks_of(self, arm: Arm) -> tuple[str, ...]:
        """Names of the tasks that an arm is for, in the order of the suite."""
        names = (task.name for task in self.tasks)
        return tuple(name for name in names if not arm.tasks or name in arm.tasks)

    def curvature(self, name: str) -> CurvatureSpec:
        """Find a curvature by its name."""
        return next(each for each in self.curvatures if each.name == name)
