"""Localisation against whole Jacobians, and its AUROC against all pairs."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate import LocalisedVector, auroc, localise
from kfac_artifacts.network import TensorExamples
from tests.evaluate.by_hand import DTYPE, moved_output, network, wide_tasks
from tests.tiny_task import tiny_network

SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), min_size=1, max_size=9)


@given(SCORES, SCORES)
@settings(deadline=None)
def test_auroc_is_the_share_of_pairs_in_order(
    inside: list[float], outside: list[float]
) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    found = auroc(torch.tensor(inside), torch.tensor(outside))
    assert found == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_scores_are_squared_changes_of_single_outputs(mode: str) -> None:
    net = network()
    tasks = wide_tasks(net)
    vectors = {task.name: task.vector for task in tasks}
    data = {task.name: task.examples for task in tasks}
    found = localise(net, vectors, data, modes=[mode], batch_size=7).modes[mode]
    for each, tau in zip(found, vectors.values(), strict=True):
        for task in tasks:
            expected = [
                (
                    moved_output(net, task, i, [(1.0, tau)], mode)
                    - moved_output(net, task, i, [], mode)
                ).square()
                for i in range(len(task.examples))
            ]
            sums = torch.stack(expected).sum(1)
            torch.testing.assert_close(each.scores[task.name], sums)
    assert [len(each.inside) for each in found] == [15, 18]
    assert [len(each.outside) for each in found] == [18, 15]


def test_tiny_changes_are_not_lost_beside_the_output() -> None:
    net, small = network().to(dtype=torch.float32), 1e-6
    tasks = wide_tasks(net)
    vectors = {task.name: small * task.vector for task in tasks}
    data = {task.name: task.examples for task in tasks}
    (found, _) = localise(net, vectors, data, modes=["linear"]).modes["linear"]
    vectors = {task.name: task.vector for task in tasks}
    (whole, _) = localise(net, vectors, data, modes=["linear"]).modes["linear"]
    torch.testing.assert_close(found.inside / small**2, whole.inside)


def test_other_data_without_labels_are_out_of_task() -> None:
    net = network()
    (task, _) = wide_tasks(net)
    far = TensorExamples({"x": torch.zeros(4, 4, dtype=DTYPE)}, "zeros")
    data = {task.name: task.examples, "far": far}
    vectors = {task.name: task.vector}
    (found,) = localise(net, vectors, data, modes=["plain"]).modes["plain"]
    assert len(found.outside) == 4


def test_json_counts_every_example_once() -> None:
    inside, outside = torch.tensor([0.0, 4.0, 4.0]), torch.tensor([1.0, 0.0])
    found = LocalisedVector("a", {"a": inside, "b": outside[:1], "c": outside[1:]})
    told = found.to_json()
    assert told["auroc"] == pytest.approx((0 + 0.5 + 4) / 6)
    assert told["data"] == {
        "a": {"examples": 3, "mean": pytest.approx(8 / 3), "median": 4, "auroc": None},
        "b": {"examples": 1, "mean": 1, "median": 1, "auroc": pytest.approx(2 / 3)},
        "c": {"examples": 1, "mean": 0, "median": 0, "auroc": pytest.approx(2.5 / 3)},
    }
    assert found.histogram(4) == ([0, 1, 2, 3, 4], [1, 0, 0, 2], [1, 1, 0, 0])


def test_what_lies_nowhere_or_is_of_another_model_is_refused() -> None:
    net = network()
    (task, other) = wide_tasks(net)
    one, two = {task.name: task.vector}, {task.name: task.examples}
    for vectors, data in ((one, two), (one, {"x": other.examples, "y": task.examples})):
        with pytest.raises(SettingsError, match="needs data of the task of every"):
            localise(net, vectors, data)
    with pytest.raises(MismatchError, match="another model"):
        localise(tiny_network(seed=3), one, {**two, "x": other.examples})


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_scores_without_an_order_are_refused(mode: str) -> None:
    net = network()
    task, other = wide_tasks(net)
    name = next(iter(task.vector.tensors))
    task.vector.tensors[name].view(-1)[0] = float("nan")
    data = {each.name: each.examples for each in (task, other)}
    words = rf"task 0 \({mode}\) changes f to what is not finite for 15 of 15"
    with pytest.raises(MismatchError, match=words):
        localise(net, {task.name: task.vector}, data, modes=[mode])
