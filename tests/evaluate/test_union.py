"""One head over the classes of all tasks, against counting by hand."""

import dataclasses

import pytest
import torch

from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate import (
    EvaluationTask,
    evaluate,
    union_head,
    with_union_head,
)
from kfac_artifacts.network import Network
from kfac_artifacts.task_vector import ClassifierHead, LinearHead
from tests.evaluate.by_hand import DTYPE, accuracy, network, wide_tasks


def _tasks(net: Network) -> list[EvaluationTask]:
    """Tasks with no class in common, as parts of one dataset have none."""
    found = []
    for t, task in enumerate(wide_tasks(net)):
        head = task.vector.head
        assert head is not None
        classes = tuple(f"{name} {t}" for name in head.classes)
        examples = dataclasses.replace(task.examples, classes=classes)
        own = dataclasses.replace(head, classes=classes)
        found.append(dataclasses.replace(task, examples=examples, head=own))
    return found


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_accuracies_are_among_the_classes_of_all_tasks(mode: str) -> None:
    net = network()
    tasks = _tasks(net)
    (found,) = evaluate(
        net, with_union_head(net, tasks), alphas=[0.3, 1.0], modes=[mode]
    ).modes
    rows = torch.cat([task.head.embeddings for task in tasks])
    names = (*tasks[0].head.classes, *tasks[1].head.classes)
    union = ClassifierHead(rows, names, 1.0)
    both = [task.vector for task in tasks]
    for task, scores in zip(tasks, found.tasks, strict=True):
        assert scores.pretrained == accuracy(net, task, [], mode, union)
        own = accuracy(net, task, [(1.0, task.vector)], mode, union)
        assert scores.individual == own
        merged = [
            accuracy(net, task, [(alpha, tau) for tau in both], mode, union)
            for alpha in (0.3, 1.0)
        ]
        assert scores.merged == tuple(merged)
    (alone,) = evaluate(net, tasks, alphas=[0.3, 1.0], modes=[mode]).modes
    assert alone.absolute > found.absolute  # among fewer classes


def test_accuracy_over_examples_counts_each_of_them_once() -> None:
    net = network()
    (found,) = evaluate(net, wide_tasks(net), modes=["linear"]).modes
    one, two = found.tasks
    right = round(15 * one.merged[0]) + round(18 * two.merged[0])
    assert found.over_examples.merged[0] == pytest.approx(right / 33)
    assert found.over_examples.merged[0] != pytest.approx(found.absolute[0])
    assert found.over_examples.examples == 33


def test_a_class_of_two_tasks_is_one_if_it_is_embedded_alike() -> None:
    rows = torch.randn(3, 5, dtype=DTYPE)
    a = ClassifierHead(rows[:2], ("cat", "dog"), 5.0)
    b = ClassifierHead(3.0 * rows[1:], ("dog", "cow"), 7.0)
    union = union_head([a, b])
    assert (union.classes, union.logit_scale) == (("cat", "dog", "cow"), 5.0)
    torch.testing.assert_close(union.logits(rows), a.logit_scale * _cosines(rows))
    unlike = ClassifierHead(rows[1:].flip(0), ("dog", "cow"), 7.0)
    with pytest.raises(MismatchError, match="a class 'dog' that their heads do not"):
        union_head([a, unlike])


def _cosines(rows: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(rows[:, None], rows[None], dim=2)


def test_heads_that_do_not_compare_and_no_heads_are_refused() -> None:
    heads = [ClassifierHead(torch.eye(c)[:2], ("a", "b"), 1.0) for c in (4, 5)]
    with pytest.raises(MismatchError, match="outputs of sizes 4, 5"):
        union_head(heads)
    layer = LinearHead(torch.eye(4)[:2], torch.zeros(2), ("c", "d"))
    with pytest.raises(MismatchError, match="1 of 2 heads are linear layers"):
        union_head([heads[0], layer])
    with pytest.raises(SettingsError, match="no head"):
        union_head([])
