"""What an evaluation found.

Absolute accuracy is the mean over tasks; normalised accuracy is the mean over tasks of
``merged / individual``, each task divided by its own. Where tasks are of unlike sizes,
accuracy over all examples is another number than the mean over tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from kfac_artifacts.artifact import Json


@dataclass(frozen=True)
class TaskScores:
    """Accuracies of one task, as fractions.

    Attributes:
        name: Name of the task.
        examples: Number of examples.
        pretrained: Of the pretrained model.
        individual: With the task's own task vector alone, at α = 1.
        merged: With the sum of all task vectors, at every α.
    """

    name: str
    examples: int
    pretrained: float
    individual: float
    merged: tuple[float, ...]

    @property
    def normalised(self) -> tuple[float | None, ...]:
        """``merged / individual`` at every α; None if ``individual`` is 0."""
        if self.individual == 0:
            return (None,) * len(self.merged)
        return tuple(accuracy / self.individual for accuracy in self.merged)

    def to_json(self) -> dict[str, Json]:
        """Write everything but the name as JSON."""
        return {
            "examples": self.examples,
            "pretrained": self.pretrained,
            "individual": self.individual,
            "merged": [*self.merged],
            "normalised": [*self.normalised],
        }


@dataclass(frozen=True)
class ModeScores:
    """Scores of all tasks, linearised or plain.

    Attributes:
        mode: ``linear`` (``f + J τ``) or ``plain`` (``f(θ0 + τ)``).
        alphas: Factors of the sum of the task vectors.
        tasks: Scores by task.
    """

    mode: str
    alphas: tuple[float, ...]
    tasks: tuple[TaskScores, ...]

    @property
    def pretrained(self) -> float:
        """Mean accuracy of the pretrained model."""
        return fmean(task.pretrained for task in self.tasks)

    @property
    def individual(self) -> float:
        """Mean accuracy with each task's own task vector."""
        return fmean(task.individual for task in self.tasks)

    @property
    def absolute(self) -> tuple[float, ...]:
        """Mean accuracy with the sum, at every α."""
        return tuple(map(fmean, zip(*(t.merged for t in self.tasks), strict=True)))

    @property
    def normalised(self) -> tuple[float | None, ...]:
        """Mean normalised accuracy with the sum, at every α."""
        columns = zip(*(task.normalised for task in self.tasks), strict=True)
        return tuple(map(_mean, columns))

    @property
    def best(self) -> int:
        """Place of the α with the highest absolute accuracy; the first such α."""
        return max(range(len(self.alphas)), key=lambda i: (self.absolute[i], -i))

    @property
    def over_examples(self) -> TaskScores:
        """All tasks as one, in which every example counts once."""
        total = sum(task.examples for task in self.tasks)

        def pooled(accuracies: Iterable[float]) -> float:
            pairs = zip(accuracies, self.tasks, strict=True)
            return sum(accuracy * task.examples for accuracy, task in pairs) / total

        return TaskScores(
            "all examples",
            total,
            pooled(task.pretrained for task in self.tasks),
            pooled(task.individual for task in self.tasks),
            tuple(map(pooled, zip(*(t.merged for t in self.tasks), strict=True))),
        )

    def to_json(self) -> dict[str, Json]:
        """Write everything as JSON, means included."""
        return {
            "alphas": [*self.alphas],
            "pretrained": self.pretrained,
            "individual": self.individual,
            "absolute": [*self.absolute],
            "normalised": [*self.normalised],
            "best_alpha": self.alphas[self.best],
            "over_examples": self.over_examples.to_json(),
            "tasks": {task.name: task.to_json() for task in self.tasks},
        }


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model by mode.

    Attributes:
        model: Name of the model.
        modes: The scores.
        validation: Of every mode the scores on the data that its one factor was chosen
            on; empty if none was chosen.
    """

    model: str
    modes: tuple[ModeScores, ...]
    validation: tuple[ModeScores, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Write everything as JSON."""
        found: dict[str, Json] = {"model": self.model, "modes": _by_mode(self.modes)}
        if self.validation:
            found["validation"] = _by_mode(self.validation)
        return found


def _by_mode(modes: Sequence[ModeScores]) -> dict[str, Json]:
    return {scores.mode: scores.to_json() for scores in modes}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
