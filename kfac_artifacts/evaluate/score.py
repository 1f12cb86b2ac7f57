"""Task addition: counting right answers of single and of merged task vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.evaluate.counting import Counted, Counts, NoCounts, Vector
from kfac_artifacts.evaluate.moved import Moved, answers, check_modes
from kfac_artifacts.evaluate.results import Evaluation, ModeScores, TaskScores
from kfac_artifacts.evaluate.tasks import EvaluationTask, heads_for, require_other_data
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.task_vector import (
    Head,
    Method,
    TaskVector,
    merge_task_vectors,
)


def evaluate(  # noqa: PLR0913 - as many arguments as there are choices
    network: Network,
    tasks: Sequence[EvaluationTask],
    *,
    alphas: Sequence[float] = (1.0,),
    modes: Sequence[str] = MODES,
    method: Method = "sum",
    validation: Sequence[LabelledExamples] | None = None,
    batch_size: int = 64,
    progress: Advance = unseen,
    counts: Counts | None = None,
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
        counts: Remembers what was counted for the same task vectors and data before;
            None if nothing is.

    Returns:
        Accuracies, as fractions of the examples.

    Raises:
        MismatchError: If a task vector is of another model or output map, there is no
            head for its data, or validation data are those that are reported on.
        CoverageError: If f of an example depends on the others of its batch.
        SettingsError: If there is no task or no α, or a mode or method is unknown.
    """
    if not tasks or not alphas:
        raise SettingsError(
            f"evaluation needs a task and an alpha; found {len(tasks)} and "
            f"{len(alphas)}"
        )
    check_modes(modes)
    heads = heads_for(network, tasks)
    data = [task.examples for task in tasks]
    if validation is not None:
        require_other_data([task.name for task in tasks], data, validation)
    total = merge_task_vectors(
        [task.vector for task in tasks], [1.0] * len(tasks), method
    )
    known = counts or NoCounts()
    scoring = _Scoring(network, tasks, heads, total, batch_size, progress, known)
    if validation is None:
        return Evaluation(network.id, tuple(scoring(m, alphas) for m in modes))
    sweeps = tuple(scoring(mode, alphas, validation) for mode in modes)
    found = tuple(scoring(s.mode, (s.alphas[s.best],)) for s in sweeps)
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
    counts: Counts

    def __call__(
        self,
        mode: str,
        alphas: Sequence[float],
        validation: Sequence[LabelledExamples] | None = None,
    ) -> ModeScores:
        """Measure every task on its own data, or on those that are for validation."""
        wanted: list[tuple[Vector, float]] = [("none", 0.0), ("own", 1.0)]
        wanted += [("merged", alpha) for alpha in alphas]
        found = []
        for place, task in enumerate(self.tasks):
            examples = validation[place] if validation else task.examples
            at = Counted(place, validation is not None, mode, "none")
            right = self._right(at, wanted, examples)
            before, alone, *merged = (n / len(examples) for n in right)
            found.append(
                TaskScores(task.name, len(examples), before, alone, tuple(merged))
            )
        return ModeScores(mode, tuple(alphas), tuple(found))

    def _right(
        self,
        at: Counted,
        wanted: Sequence[tuple[Vector, float]],
        examples: LabelledExamples,
    ) -> list[int]:
        """How many answers are right: what is not known is counted in one look."""
        vectors = dict.fromkeys(vector for vector, _ in wanted)
        known = {v: {**self.counts.find(replace(at, vector=v))} for v in vectors}
        missing = [(v, alpha) for v, alpha in wanted if alpha not in known[v]]
        if missing:
            counted = self._counted(at, missing, examples)
            for (vector, alpha), right in zip(missing, counted, strict=True):
                known[vector][alpha] = right
            for vector in dict.fromkeys(vector for vector, _ in missing):
                self.counts.keep(replace(at, vector=vector), known[vector])
        else:
            self.progress(len(examples))
        return [known[vector][alpha] for vector, alpha in wanted]

    def _counted(
        self,
        at: Counted,
        missing: Sequence[tuple[Vector, float]],
        examples: LabelledExamples,
    ) -> list[int]:
        moved = Moved(self.network, [self.tasks[at.task].vector, self.total], at.mode)
        factors = [(a * (v == "own"), a * (v == "merged")) for v, a in missing]
        head = self.heads[at.task]
        given = answers(moved, factors, examples, head, self.batch_size, self.progress)
        right: list[int] = (given == head.targets(examples)).sum(1).tolist()
        return right
