"""The model, the texts and the heads, read once; training and scoring in process."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

import cli_session
import kfac_artifacts as kfac
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.task_vector import merge_task_vectors
from kfac_artifacts.train import USUAL_LOGIT_SCALE, class_texts, text_head

AT_ONCE = 64
"""Examples per pass when scoring."""


@cache
def network() -> Network:
    """The pretrained sentence encoder."""
    return kfac.load_network(cli_session.MODEL)


@cache
def texts(task: str, split: str) -> LabelledExamples:
    """Labelled texts of a task; those for testing have the classes of the others."""
    return kfac.load_examples(
        f"{task}/{split}.csv",
        network(),
        text_columns=("text",),
        label_column="label",
        max_length=cli_session.TOKENS,
        classes=() if split == "train" else texts(task, "train").classes,
    )


@cache
def task_of(trainer: str) -> kfac.TrainingTask:
    """A task to train, its head made of the names of its classes."""
    examples = texts(trainer, "train")
    classes = list(examples.classes)
    embeddings = kfac.encode_texts(
        network(), class_texts(classes, cli_session.TEMPLATE)
    )
    rows = embeddings.float().cpu()
    head = text_head(rows, classes, logit_scale=USUAL_LOGIT_SCALE)
    return kfac.TrainingTask(examples, head)


def train(
    trainer: str, curvature: Path, settings: kfac.TrainSettings
) -> kfac.TaskVector:
    """Train a task vector as ``kfac train`` does."""
    artifact = kfac.load_artifact(curvature, verify=False)
    return kfac.train(network(), task_of(trainer), settings, curvature=artifact)


@torch.no_grad()
def score(vectors: Mapping[str, kfac.TaskVector]) -> dict[str, dict[str, float]]:
    """Measure the sum of task vectors on the held-out texts of every task.

    Args:
        vectors: Task vectors by task.

    Returns:
        Accuracies in percent by mode and task.

    Raises:
        TypeError: If a task vector has no head.
    """
    total = merge_task_vectors([*vectors.values()], [1.0] * len(vectors)).tensors
    values = network().parameters()
    moved = {name: values[name] + change for name, change in total.items()}
    found: dict[str, dict[str, float]] = {mode: {} for mode in cli_session.MODES}
    for task, vector in vectors.items():
        examples, head = texts(task, "test"), vector.head
        if head is None:
            raise TypeError(f"the task vector of {task} has no head")
        targets, right = head.targets(examples), dict.fromkeys(cli_session.MODES, 0)
        for start in range(0, len(examples), AT_ONCE):
            chosen = range(start, min(start + AT_ONCE, len(examples)))
            batch = examples.batch(chosen)
            output, change = jvp(network(), total, batch)
            plain = network().functional_call(moved, batch)
            for mode, f in (("linear", output + change), ("plain", plain)):
                answers = head.logits(f).argmax(-1)
                right[mode] += int((answers == targets[list(chosen)]).sum())
        for mode, count in right.items():
            found[mode][task] = 100 * count / len(examples)
    return found
