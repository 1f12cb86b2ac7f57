"""What is to be learned."""

from dataclasses import dataclass

from kfac_artifacts.network import LabelledExamples
from kfac_artifacts.task_vector import Head
from kfac_artifacts.train.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """What is to be learned.

    Attributes:
        examples: Labelled examples.
        head: The frozen classifier on top of the output map.
        held_out: Labelled examples to measure the result on, if any.
    """

    examples: LabelledExamples
    head: Head
    held_out: LabelledExamples | None = None


@dataclass(frozen=True, eq=False)
class Learning:
    """What will be learned, and how.

    Attributes:
        task: What is to be learned.
        indices: Numbers of the examples that are trained on.
        settings: How.
    """

    task: TrainingTask
    indices: tuple[int, ...]
    settings: TrainSettings
