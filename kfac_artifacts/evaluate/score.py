"""Counting right answers of single and of merged task vectors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate.moving import check_vector, moved_output, on_device
from kfac_artifacts.evaluate.results import Evaluation, ModeScores, TaskScores
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Batch, LabelledExamples, Network
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.task_vector import (
    Head,
    Method,
    TaskVector,
    merge_task_vectors,
)


@dataclass(frozen=True, eq=False)
class EvaluationTask:
    """A task vector with labelled examples of its task.

    Attributes:
        name: Name of the task.
        vector: Its task vector.
        examples: Labelled examples, best held out from training.
        head: What to classify with; None for the head of the task vector.
    """

    name: str
    vector: TaskVector
    examples: LabelledExamples
    head: Head | None = None


@dataclass(frozen=True, eq=False)
class _Job:
    """One task in one mode: its own changes and those of all tasks."""

    network: Network
    own: dict[str, Tensor]
    total: dict[str, Tensor]
    alphas: tuple[float, ...]

    def linear(self, batch: Batch) -> Iterator[Tensor]:
        """Outputs pretrained, individual and at every α; one pass serves every α."""
        output, change = jvp(self.network, self.own, batch)
        yield output
        yield output + change
        if self.own is not self.total:
            _, change = jvp(self.network, self.total, batch)
        for alpha in self.alphas:
            yield output + alpha * change

    def plain(self, batch: Batch) -> Iterator[Tensor]:
        """Outputs pretrained, individual and at every α, a forward pass for each."""
        yield self.network(batch)
        yield moved_output(self.network, self.own, 1.0, batch)
        for alpha in self.alphas:
            yield moved_output(self.network, self.total, alpha, batch)


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
    if not tasks or not alphas or not modes or not set(modes) <= set(MODES):
        raise SettingsError(
            f"evaluation needs a task, an alpha and modes out of {', '.join(MODES)}; "
            f"found {len(tasks)}, {len(alphas)} and {', '.join(modes)}"
        )
    heads = [_head(network, task) for task in tasks]
    data = [task.examples for task in tasks]
    if validation is not None:
        _require_other_data(tasks, validation)
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
        summed = on_device(self.total, self.network)
        found = []
        for task, head, examples in zip(self.tasks, self.heads, data, strict=True):
            one = len(self.tasks) == 1
            own = summed if one else on_device(task.vector, self.network)
            job = _Job(self.network, own, summed, tuple(alphas))
            outputs = job.linear if mode == "linear" else job.plain
            right = _count(outputs, head, examples, self.batch_size, self.progress)
            before, alone, *merged = (n / len(examples) for n in right)
            found.append(
                TaskScores(task.name, len(examples), before, alone, tuple(merged))
            )
        return ModeScores(mode, tuple(alphas), tuple(found))


def _require_other_data(
    tasks: Sequence[EvaluationTask], validation: Sequence[LabelledExamples]
) -> None:
    """Refuse to choose a factor on what is reported."""
    if len(tasks) != len(validation):
        raise MismatchError(
            f"there are {len(tasks)} tasks, and validation data for {len(validation)}; "
            "give some for every task"
        )
    for task, examples in zip(tasks, validation, strict=True):
        if _fingerprint(examples) == _fingerprint(task.examples):
            raise MismatchError(
                f"{task.name} would be reported on the very data that the factor is "
                "chosen on; give others for validation"
            )


def _fingerprint(examples: LabelledExamples) -> str:
    return examples.info(range(len(examples))).fingerprint


def _head(network: Network, task: EvaluationTask) -> Head:
    check_vector(network, task.name, task.vector, task.examples)
    head = task.head or task.vector.head
    if head is None:
        raise MismatchError(
            f"{task.name} has no head to classify with; give one (make_head makes it "
            "for the classes of the examples)"
        )
    return head


@torch.no_grad()
def _count(
    outputs: Callable[[Batch], Iterator[Tensor]],
    head: Head,
    examples: LabelledExamples,
    batch_size: int,
    progress: Advance,
) -> list[int]:
    """Count right answers by model: pretrained, individual, and one for every α."""
    targets = head.targets(examples)
    right: Tensor | None = None
    for start in range(0, len(examples), batch_size):
        chosen = range(start, min(start + batch_size, len(examples)))
        answers = torch.stack(
            [head.logits(f).argmax(-1).cpu() for f in outputs(examples.batch(chosen))]
        )
        counts = (answers == targets[list(chosen)]).sum(1)
        right = counts if right is None else right + counts
        progress(len(chosen))
    return [] if right is None else right.tolist()
