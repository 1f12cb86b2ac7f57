"""How far a training is: what every loop counts, and what a checkpoint takes along."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from accelerate import Accelerator

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format import State
from kfac_artifacts.train.settings import TrainSettings

RECENT_STEPS = 20


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


@dataclass(frozen=True)
class Probe:
    """What a training without penalty did in its first steps.

    Attributes:
        steps: How many.
        loss: The task's own loss at θ0, a mean over some of its examples.
        loss_after: The same, linearised, after the steps.
        curvature: ``τᵀ H τ`` of this loss along the change.
        drift: The penalty of the change, without a factor.
    """

    steps: int
    loss: float
    loss_after: float
    curvature: float
    drift: float


@dataclass(kw_only=True)
class Underway:
    """A training; ``step`` and ``recent`` change with every step.

    Attributes:
        accelerator: The processes that take part.
        settings: How to train; λ is a number from the first step on.
        probe: What λ was chosen by, if it was.
        step: How many steps are done.
        recent: Loss and accuracy of the last ones.
    """

    accelerator: Accelerator
    settings: TrainSettings
    probe: Probe | None = None
    step: int = 0
    recent: list[tuple[float, float]] = field(default_factory=list)

    @property
    def main(self) -> bool:
        """Whether this process reports and writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def progress(self) -> TrainingProgress:
        """How far the run is."""
        loss, accuracy = (
            sum(each) / len(self.recent) for each in zip(*self.recent, strict=True)
        )
        return TrainingProgress(self.step, self.settings.steps, loss, accuracy)

    @property
    def details(self) -> dict[str, Json]:
        """What a checkpoint has to know beside tensors."""
        found: dict[str, Json] = {"recent": [list(each) for each in self.recent]}
        if self.probe is not None:
            found["probe"] = asdict(self.probe)
        return found

    def count(self, loss: float, accuracy: float) -> None:
        """Count a step that was taken.

        Args:
            loss: Its mean task loss.
            accuracy: Its mean accuracy.

        Raises:
            SettingsError: If the loss is not finite.
        """
        if not math.isfinite(loss):
            raise SettingsError(
                f"training diverged: the loss of step {self.step + 1} is {loss}; take "
                "a lower learning rate"
            )
        self.recent = [*self.recent, (loss, accuracy)][-RECENT_STEPS:]
        self.step += 1

    def take_up(self, state: State, report: Callable[[TrainingProgress], None]) -> None:
        """Go on behind the steps of a checkpoint, and report how far it was."""
        recent: Any = state.details["recent"]
        chosen: Any = state.details.get("probe")
        self.step = state.step
        self.probe = None if chosen is None else Probe(**chosen)
        self.recent = [(loss, score) for loss, score in recent]
        if self.main:
            report(dataclasses.replace(self.progress, resumed=True))
