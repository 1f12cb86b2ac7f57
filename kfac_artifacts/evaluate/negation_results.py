"""What subtracting task vectors did to their own tasks and to a control task.

Of the factors that keep the control task, the one is best that leaves the least of the
target (Ilharco et al. 2023; TAK, Table 2).
"""

from dataclasses import dataclass
from statistics import fmean

from kfac_artifacts.artifact import Json


@dataclass(frozen=True)
class NegatedTask:
    """Accuracies with one task vector subtracted, as fractions.

    Attributes:
        name: Name of the target task.
        examples: Number of its examples.
        pretrained: Accuracy of the pretrained model on them.
        control_pretrained: The same on the control task.
        alphas: Factors α of ``θ0 - α τ``.
        target: Accuracy on the target task, at every α.
        control: Accuracy on the control task, at every α.
    """

    name: str
    examples: int
    pretrained: float
    control_pretrained: float
    alphas: tuple[float, ...]
    target: tuple[float, ...]
    control: tuple[float, ...]

    def best(self, keep: float) -> int | None:
        """Place of the α with the lowest target accuracy that keeps the control task.

        Args:
            keep: Least control accuracy, as a share of the pretrained one.

        Returns:
            Of several the one with the highest control accuracy, then the first; None
            if no α keeps it.
        """
        least = keep * self.control_pretrained
        # accuracies are counts over a number: equal ones may differ by rounding
        kept = [i for i, value in enumerate(self.control) if value >= least - 1e-12]
        if not kept:
            return None
        return min(kept, key=lambda i: (self.target[i], -self.control[i], i))

    def to_json(self, keep: float) -> dict[str, Json]:
        """Write everything but the name as JSON, and which α is best."""
        best = self.best(keep)
        return {
            "examples": self.examples,
            "pretrained": self.pretrained,
            "control_pretrained": self.control_pretrained,
            "alphas": [*self.alphas],
            "target": [*self.target],
            "control": [*self.control],
            "best_alpha": None if best is None else self.alphas[best],
        }


@dataclass(frozen=True)
class NegationScores:
    """Scores of every task of one mode, each task vector subtracted alone.

    Attributes:
        mode: ``linear`` (``f - α J τ``) or ``plain`` (``f(θ0 - α τ)``).
        tasks: Scores by target task.
    """

    mode: str
    tasks: tuple[NegatedTask, ...]

    def means(self) -> tuple[float, float, float, float] | None:
        """Mean over tasks: target and control, pretrained, then at the one α of each.

        Returns:
            Four accuracies; None if several α of a task are reported.
        """
        if any(len(task.alphas) > 1 for task in self.tasks):
            return None
        return (
            fmean(task.pretrained for task in self.tasks),
            fmean(task.control_pretrained for task in self.tasks),
            fmean(task.target[0] for task in self.tasks),
            fmean(task.control[0] for task in self.tasks),
        )


@dataclass(frozen=True)
class Negation:
    """Scores of subtracted task vectors by mode.

    Attributes:
        model: Name of the model.
        control: Name of the control task.
        control_examples: Number of its examples.
        keep: Least control accuracy that was asked for, as a share of the pretrained.
        modes: The scores.
        validation: Of every mode the scores on the data that the one factor of each
            task was chosen on; empty if none was chosen.
    """

    model: str
    control: str
    control_examples: int
    keep: float
    modes: tuple[NegationScores, ...]
    validation: tuple[NegationScores, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Write everything as JSON."""
        found: dict[str, Json] = {
            "model": self.model,
            "control": {"name": self.control, "examples": self.control_examples},
            "keep": self.keep,
            "modes": self._by_mode(self.modes),
        }
        if self.validation:
            found["validation"] = self._by_mode(self.validation)
        return found

    def _by_mode(self, modes: tuple[NegationScores, ...]) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for scores in modes:
            means = scores.means()
            names = ("pretrained", "control_pretrained", "target", "control")
            found[scores.mode] = {
                "mean": None if means is None else dict(zip(names, means, strict=True)),
                "tasks": {t.name: t.to_json(self.keep) for t in scores.tasks},
            }
        return found
