"""Task negation against counting by hand, and its choice of the factor."""

import dataclasses

import pytest

from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate import (
    ControlTask,
    EvaluationTask,
    NegatedTask,
    negate,
)
from kfac_artifacts.network import Network
from kfac_artifacts.task_vector import Head
from kfac_artifacts.train import prototype_head
from tests.evaluate.by_hand import DTYPE, accuracy, network, wide_tasks
from tests.tiny_task import LabelledPoints, tiny_points

ALPHAS = (0.1, 0.2, 0.5, 1.0)


def _head(net: Network, seed: int) -> Head:
    points = tiny_points(seed, DTYPE)
    return prototype_head(net, points, range(len(points)), logit_scale=10.0)


def _control(net: Network, **changes: object) -> ControlTask:
    points = tiny_points(20, DTYPE)
    return dataclasses.replace(
        ControlTask("control", points, _head(net, 20)), **changes
    )


def _tasks(net: Network) -> list[EvaluationTask]:
    """Tasks that the pretrained network knows, so that there is what to forget."""
    return [
        dataclasses.replace(task, head=_head(net, 10 + t))
        for t, task in enumerate(wide_tasks(net))
    ]


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_accuracies_are_those_counted_one_by_one(mode: str) -> None:
    net = network()
    control, tasks = _control(net), _tasks(net)
    found = negate(net, tasks, control, alphas=ALPHAS, modes=[mode], batch_size=7)
    for task, scores in zip(tasks, found.modes[0].tasks, strict=True):
        kept = dataclasses.replace(task, examples=control.examples, head=control.head)
        moves = [[(-alpha, task.vector)] for alpha in ALPHAS]
        assert scores.pretrained == accuracy(net, task, [], mode)
        assert scores.control_pretrained == accuracy(net, kept, [], mode)
        assert scores.target == tuple(accuracy(net, task, m, mode) for m in moves)
        assert scores.control == tuple(accuracy(net, kept, m, mode) for m in moves)
    assert found.validation == ()


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_a_factor_is_chosen_on_other_data_than_it_is_reported_on(mode: str) -> None:
    net = network()
    tasks = _tasks(net)
    target = [tiny_points(10 + t, DTYPE, count=21) for t in range(2)]
    more = tiny_points(20, DTYPE, count=96)  # the first of them are the control's
    rest = LabelledPoints(more.batch(range(36, 96)), "rest", more.labels[36:])
    control = _control(net, validation=rest, keep=0.9)
    found = negate(net, tasks, control, alphas=ALPHAS, modes=[mode], validation=target)
    others = [
        dataclasses.replace(task, examples=examples)
        for task, examples in zip(tasks, target, strict=True)
    ]
    dev = dataclasses.replace(control, examples=control.validation, validation=None)
    assert found.validation == tuple(
        negate(net, others, dev, alphas=(0.0, *ALPHAS), modes=[mode]).modes
    )
    chosen = []
    for task, swept in zip(
        found.modes[0].tasks, found.validation[0].tasks, strict=True
    ):
        assert swept.alphas == (0.0, *ALPHAS)
        allowed = [
            (t, -c, a)
            for a, t, c in zip(swept.alphas, swept.target, swept.control, strict=True)
            if c >= 0.9 * swept.control_pretrained
        ]
        assert task.alphas == (min(allowed)[2],)
        chosen.append(task.alphas[0])
    assert any(chosen)
    for t, alpha in enumerate(chosen):
        test = dataclasses.replace(control, validation=None)
        alone = negate(net, tasks[t : t + 1], test, alphas=[alpha], modes=[mode])
        assert found.modes[0].tasks[t] == alone.modes[0].tasks[0]


def _negated(target: tuple[float, ...], control: tuple[float, ...]) -> NegatedTask:
    alphas = tuple(0.5 * i for i in range(len(target)))
    return NegatedTask("a", 100, 0.8, 0.6, alphas, target, control)


def test_the_best_factor_forgets_most_of_those_that_keep_the_control() -> None:
    found = _negated((0.8, 0.5, 0.3, 0.1), (0.6, 0.59, 0.57, 0.56))
    assert found.best(0.95) == 2  # 0.57 is 0.95 times 0.6, but not in floating point
    assert found.best(0.99) == 0
    assert found.best(0.0) == 3
    assert found.best(1.0) == 0
    assert _negated((0.5, 0.5, 0.5), (0.57, 0.58, 0.58)).best(0.95) == 1
    assert _negated((0.5,), (0.1,)).best(0.95) is None
    assert _negated((0.5,), (0.1,)).to_json(0.95)["best_alpha"] is None


def test_means_are_over_tasks_at_the_factor_of_each() -> None:
    net = network()
    tasks, control = _tasks(net), _control(net)
    found = negate(net, tasks, control, alphas=[0.5], modes=["plain"])
    told = found.to_json()["modes"]["plain"]  # type: ignore[call-overload]
    one, two = told["tasks"].values()
    assert told["mean"]["target"] == (one["target"][0] + two["target"][0]) / 2
    assert told["mean"]["control"] == (one["control"][0] + two["control"][0]) / 2
    assert one["target"] != one["control"]
    sweep = negate(net, tasks, control, alphas=ALPHAS, modes=["plain"])
    assert sweep.modes[0].means() is None


def test_what_cannot_be_judged_is_refused() -> None:
    net = network()
    tasks, control = _tasks(net), _control(net)
    target = [tiny_points(10 + t, DTYPE, count=21) for t in range(2)]
    with pytest.raises(SettingsError, match="control control have no validation"):
        negate(net, tasks, control, validation=target)
    both = _control(net, validation=tiny_points(20, DTYPE, count=60))
    with pytest.raises(SettingsError, match="the tasks have no validation"):
        negate(net, tasks, both)
    same = _control(net, validation=control.examples)
    with pytest.raises(MismatchError, match="control would be reported on the very"):
        negate(net, tasks, same, validation=target)
    with pytest.raises(SettingsError, match="needs a task and an alpha"):
        negate(net, [], control)
    with pytest.raises(SettingsError, match=r"a share from 0 to 1"):
        _control(net, keep=95.0)
