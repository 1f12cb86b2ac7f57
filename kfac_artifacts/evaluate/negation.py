"""Task negation: a task vector is subtracted, so that its task alone is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass

from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.evaluate.moved import Moved, answers, check_modes
from kfac_artifacts.evaluate.negation_results import (
    NegatedTask,
    Negation,
    NegationScores,
)
from kfac_artifacts.evaluate.tasks import EvaluationTask, heads_for, require_other_data
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.task_vector import Head

KEEP = 0.95
"""Least control accuracy, as a share of the pretrained one (TAK, Table 2)."""


@dataclass(frozen=True, eq=False)
class ControlTask:
    """What a model must not forget; the paper takes ImageNet.

    Attributes:
        name: Name of the task.
        examples: Labelled examples.
        head: What to classify them with.
        keep: Least accuracy to keep, as a share of the pretrained one.
        validation: Others, to choose factors on; None if none is chosen.
    """

    name: str
    examples: LabelledExamples
    head: Head
    keep: float = KEEP
    validation: LabelledExamples | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise SettingsError(
                f"cannot keep {self.keep:g} times the accuracy on {self.name}; choose "
                "a share from 0 to 1"
            )


def negate(
    network: Network,
    tasks: Sequence[EvaluationTask],
    control: ControlTask,
    *,
    alphas: Sequence[float] = (1.0,),
    modes: Sequence[str] = MODES,
    validation: Sequence[LabelledExamples] | None = None,
    batch_size: int = 64,
    progress: Advance = unseen,
) -> Negation:
    """Measure what is left of every task, and of the control, at ``θ0 - α τ``.

    With ``validation`` the factor is chosen on other data than it is reported on, task
    by task and mode by mode: of those that keep the control accuracy, the one with the
    lowest target accuracy. Then 0, which changes nothing, is always to be chosen.

    Args:
        network: The pretrained network.
        tasks: The task vectors to subtract, one at a time, with examples of each task.
        control: What must not be forgotten.
        alphas: Factors α.
        modes: ``linear``, ``plain`` or both.
        validation: Labelled examples of every task, in the order of ``tasks``, to
            choose its factor on, with those of the control; None to report every
            factor.
        batch_size: Examples per forward pass.
        progress: Called with the number of examples just done, in every mode; those of
            the control count for every task.

    Returns:
        Accuracies, as fractions of the examples.

    Raises:
        MismatchError: If a task vector is of another model or output map, there is no
            head for its data, or validation data are those that are reported on.
        CoverageError: If f of an example depends on the others of its batch.
        SettingsError: If there is no task or no α, a mode is unknown, or the tasks or
            the control alone have validation data.
    """
    if not tasks or not alphas:
        raise SettingsError(
            f"negation needs a task and an alpha; found {len(tasks)} and {len(alphas)}"
        )
    if (validation is None) != (control.validation is None):
        lacking = "the tasks" if validation is None else f"the control {control.name}"
        raise SettingsError(
            f"{lacking} have no validation data; factors are chosen on those of the "
            "tasks and of the control, or not at all"
        )
    check_modes(modes)
    heads = heads_for(network, tasks)
    subtracting = _Subtracting(network, tasks, heads, control, batch_size, progress)
    data = [task.examples for task in tasks]
    about = (network.id, control.name, len(control.examples), control.keep)
    if validation is None or control.validation is None:
        every = [tuple(alphas)] * len(tasks)
        reported = [subtracting(m, every, data, control.examples) for m in modes]
        return Negation(*about, tuple(reported))
    require_other_data(
        [*(task.name for task in tasks), control.name],
        [*data, control.examples],
        [*validation, control.validation],
    )
    candidates = [tuple(dict.fromkeys((0.0, *alphas)))] * len(tasks)
    sweeps = [
        subtracting(mode, candidates, validation, control.validation) for mode in modes
    ]
    found = [
        subtracting(s.mode, _chosen(s, control.keep), data, control.examples)
        for s in sweeps
    ]
    return Negation(*about, tuple(found), tuple(sweeps))


def _chosen(sweep: NegationScores, keep: float) -> list[tuple[float, ...]]:
    """Give the best factor of every task, alone."""
    places = [task.best(keep) or 0 for task in sweep.tasks]  # 0 stands first
    return [(t.alphas[i],) for t, i in zip(sweep.tasks, places, strict=True)]


@dataclass(frozen=True, eq=False)
class _Subtracting:
    """Task vectors that are subtracted one at a time, in any mode."""

    network: Network
    tasks: Sequence[EvaluationTask]
    heads: Sequence[Head]
    control: ControlTask
    batch_size: int
    progress: Advance

    def __call__(
        self,
        mode: str,
        alphas: Sequence[tuple[float, ...]],
        data: Sequence[LabelledExamples],
        control: LabelledExamples,
    ) -> NegationScores:
        """Measure every task with its own factors, on the data that are given."""
        found = []
        for task, head, own, examples in zip(
            self.tasks, self.heads, alphas, data, strict=True
        ):
            moved = Moved(self.network, [task.vector], mode)
            before, *target = self._accuracies(moved, own, examples, head)
            kept, *rest = self._accuracies(moved, own, control, self.control.head)
            found.append(
                NegatedTask(
                    task.name,
                    len(examples),
                    before,
                    kept,
                    own,
                    tuple(target),
                    tuple(rest),
                )
            )
        return NegationScores(mode, tuple(found))

    def _accuracies(
        self,
        moved: Moved,
        alphas: Sequence[float],
        examples: LabelledExamples,
        head: Head,
    ) -> list[float]:
        """Measure the pretrained model, then every factor."""
        factors = [(0.0,), *((-alpha,) for alpha in alphas)]
        given = answers(moved, factors, examples, head, self.batch_size, self.progress)
        right = (given == head.targets(examples)).sum(1)
        return [count / len(examples) for count in right.tolist()]
