"""A training before its first step: who takes part, and that they fit together."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.choices import OPTIMIZERS, PENALTIES, REGIMES
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.network import Network
from kfac_artifacts.train.parameters import choose_parameters
from kfac_artifacts.train.penalties import Penalty, PenaltySettings
from kfac_artifacts.train.regimes import Regime
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.train.task import TrainingTask

RegimeMaker: TypeAlias = Callable[[Network, Sequence[str]], Regime]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        step: Steps that are done.
        steps: Steps in all.
        loss: Mean task loss of the last steps.
        accuracy: Mean accuracy of the last steps, on their training examples.
        resumed: Whether these steps were done by an interrupted run.
    """

    step: int
    steps: int
    loss: float
    accuracy: float
    resumed: bool = False


@dataclass
class Run:
    """Everything a step needs; ``step`` and ``recent`` change with every step.

    ``model`` is the regime as accelerate has it: it shares gradients among processes.
    """

    accelerator: Accelerator
    task: TrainingTask
    settings: TrainSettings
    indices: tuple[int, ...]
    targets: Tensor
    regime: Regime
    model: nn.Module
    optimizer: AcceleratedOptimizer
    penalty: Penalty | None
    step: int = 0
    recent: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def main(self) -> bool:
        """Whether this process reports and writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def progress(self) -> TrainingProgress:
        """How far the run is."""
        loss, accuracy = (
            sum(x) / len(self.recent) for x in zip(*self.recent, strict=True)
        )
        return TrainingProgress(self.step, self.settings.steps, loss, accuracy)


def make_penalty(
    penalty: Penalty | str | None,
    curvature: Artifact | None,
    settings: PenaltySettings,
) -> Penalty | None:
    """Make the penalty that was asked for.

    Args:
        penalty: The penalty itself, or its name; None for that of the curvature.
        curvature: Curvature of the other tasks.
        settings: How much the penalty counts.

    Returns:
        The penalty; None for none.

    Raises:
        SettingsError: If there is none of that name, or both a penalty and curvature
            are given.
    """
    if penalty is None:
        return None if curvature is None else PENALTIES["kfac"](curvature, settings)
    if isinstance(penalty, str):
        return PENALTIES[penalty](curvature, settings)
    if curvature is not None:
        raise SettingsError("give curvature or a penalty of your own, not both")
    return penalty


def prepare(
    accelerator: Accelerator,
    network: Network,
    task: TrainingTask,
    settings: TrainSettings,
    penalty: Penalty | None,
    regime: RegimeMaker | str,
) -> Run:
    """Check what belongs together, choose what is trained, and get ready for step 0.

    Args:
        accelerator: The processes.
        network: The pretrained network.
        task: What is to be learned.
        settings: How.
        penalty: What holds it back.
        regime: How the network moves.

    Returns:
        The run.

    Raises:
        SettingsError: If there are fewer examples in a batch than processes.
        CoverageError: If nothing is trained.
    """
    if penalty is not None:
        penalty.check(network)
        if accelerator.is_main_process and settings.penalty.weight > 0:
            for doubt in penalty.doubts(task.examples):
                logger.warning("%s", doubt)
    targets = task.head.targets(task.examples)
    if task.held_out is not None:
        task.head.targets(task.held_out)
    indices = tuple(settings.choose(len(task.examples)))
    if min(settings.batch_size, len(indices)) < accelerator.num_processes:
        raise SettingsError(
            f"a batch of {settings.batch_size} of {len(indices)} examples is too small "
            f"for {accelerator.num_processes} processes; each needs at least one"
        )
    some = task.examples.batch(indices[:2])
    covered = None if penalty is None else penalty.covered
    names = choose_parameters(network, covered, settings.modules, some)
    made = REGIMES[regime] if isinstance(regime, str) else regime
    moving = made(network, names)
    if not moving.tau():
        raise CoverageError(
            f"{type(moving).__name__} trains none of {', '.join(names[:3])} and the "
            f"other parameters that may move ({len(names)} in all)"
        )
    if penalty is not None:  # without weight it is still measured at the end
        penalty.prepare(network, tuple(moving.tau()))
    optimizer = OPTIMIZERS[settings.optimizer](
        moving.parameters(), settings.learning_rate, settings.weight_decay
    )
    return Run(
        accelerator=accelerator,
        task=task,
        settings=settings,
        indices=indices,
        targets=targets,
        regime=moving,
        model=accelerator.prepare(moving),
        optimizer=accelerator.prepare(optimizer),
        penalty=penalty,
    )
