"""Task addition: counting right answers of single and of merged task vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.evaluate.moved import Moved, answers, check_modes
from kfac_artifacts.evaluate.results import Evaluation, ModeScores, TaskScores
from kfac_artifacts.evaluate.tasks import EvaluationTask, head_for, require_other_data
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.task_vector import (
    Head,
    Method,
    TaskVector,
    merge_task_vectors,
)


def evaluate(
    network: Network,
    tasks: Sequence[EvaluationTask],
    *,
    alphas: Sequence[float] = (1.0,),
    modes: Sequence[str] = MODES,
    method: Method = "sum",
    validation: Sequence[LabelledExamples] | None = None,
    batch_size: int = 64,
    progress: Advance = unseen,
) -> Evaluation:
    """Measure every task pretrained, with its own task vector, and with all merged.

    With ``validation`` the factor is chosen on other data than it is reported on: the
    one with the highest absolute accuracy there, the first of several, mode by mode.

    Args:
        network: The pretrained network.
        tasks: The task vectors to add, each with examples of its task.
        alphas: Factors of what all are merged to.
        modes: ``linear``, ``plain`` or both.
        method: How they are merged: a name out of ``choices.MERGES``, a method with
            its settings such as ``Ties(keep=0.1)``, or a class of ``Merging``.
        validation: Labelled examples of every task, in the order of ``tasks``, to
            choose the factor on; None to report every factor.
        batch_size: Examples per forward pass.
        progress: Called with the number of examples just done, in every mode.

    Returns:
        Accuracies, as fractions of the examples.

    Raises:
        MismatchError: If a task vector is of another model or output map, there is no
            head for its data, or validation data are those that are reported on.
        SettingsError: If there is no task or no α, or a mode or method is unknown.
    """
    if not tasks or not alphas:
        raise SettingsError(
            f"evaluation needs a task and an alpha; found {len(tasks)} and "
            f"{len(alphas)}"
        )
    check_modes(modes)
    heads = [head_for(network, task) for task in tasks]
    data = [task.examples for task in tasks]
    if validation is not None:
        require_other_data([task.name for task in tasks], data, validation)
    total = merge_task_vectors(
        [task.vector for task in tasks], [1.0] * len(tasks), method
    )
    scoring = _Scoring(network, tasks, heads, total, batch_size, progress)
    if validation is None:
        return Evaluation(network.id, tuple(scoring(m, alphas, data) for m in modes))
    sweeps = tuple(scoring(mode, alphas, validation) for mode in modes)
    found = tuple(scoring(s.mode, (s.alphas[s.best],), data) for s in sweeps)
    return Evaluation(network.id, found, sweeps)


@dataclass(frozen=True, eq=False)
class _Scoring:
    """Task vectors, merged once, that are measured in any mode, with any factor."""

    network: Network
    tasks: Sequence[EvaluationTask]
    heads: Sequence[Head]
    total: TaskVector
    batch_size: int
    progress: Advance

    def __call__(
        self, mode: str, alphas: Sequence[float], data: Sequence[LabelledExamples]
    ) -> ModeScores:
        """Measure every task on the data that are given for it."""
        found = []
        for task, head, examples in zip(self.tasks, self.heads, data, strict=True):
            moved = Moved(self.network, [task.vector, self.total], mode)
            factors = [(0.0, 0.0), (1.0, 0.0), *((0.0, alpha) for alpha in alphas)]
            given = answers(
                moved, factors, examples, head, self.batch_size, self.progress
            )
            right = (given == head.targets(examples)).sum(1).tolist()
            before, alone, *merged = (n / len(examples) for n in right)
            found.append(
                TaskScores(task.name, len(examples), before, alone, tuple(merged))
            )
        return ModeScores(mode, tuple(alphas), tuple(found))
