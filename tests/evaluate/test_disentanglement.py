"""The disentanglement error against Eq. 19, written out example by example."""

import pytest

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.evaluate import EvaluationTask, disentanglement
from kfac_artifacts.network import Network
from tests.evaluate.by_hand import (
    COMPARED,
    answer,
    moved_output,
    network,
    passes,
    wide_tasks,
)

ALPHAS = (-1.5, 0.0, 0.5, 1.0)


def _error(
    net: Network, tasks: list[EvaluationTask], pair: tuple[float, float], mode: str
) -> float:
    total = 0.0
    both = [(alpha, task.vector) for alpha, task in zip(pair, tasks, strict=True)]
    for t, task in enumerate(tasks):
        head = task.vector.head
        assert head is not None
        unlike = [
            answer(head, moved_output(net, task, i, both[t : t + 1], mode))
            != answer(head, moved_output(net, task, i, both, mode))
            for i in range(len(task.examples))
        ]
        total += sum(unlike) / len(unlike)
    return total


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_errors_are_those_of_the_formula(mode: str) -> None:
    net = network()
    tasks = wide_tasks(net)
    (found,) = disentanglement(
        net, tasks, alphas=ALPHAS, modes=[mode], batch_size=7
    ).modes
    expected = [[_error(net, tasks, (a, b), mode) for b in ALPHAS] for a in ALPHAS]
    for row, wanted in zip(found.error, expected, strict=True):
        assert row == pytest.approx(wanted)
    values = [value for row in expected for value in row]
    assert len(set(values)) > 4
    assert found.error[1][1] == 0.0
    asymmetric = [[expected[j][i] for j in range(4)] for i in range(4)]
    assert asymmetric != expected  # which factor is in the rows is told apart


def test_json_has_the_sum_and_its_parts() -> None:
    net = network()
    tasks = wide_tasks(net)
    found = disentanglement(net, tasks, alphas=ALPHAS, modes=["linear"])
    told = found.to_json()
    assert (told["tasks"], told["examples"]) == (["task 0", "task 1"], [15, 18])
    mode = told["modes"]["linear"]  # type: ignore[call-overload]
    one, two = mode["disagreement"]["task 0"], mode["disagreement"]["task 1"]
    assert mode["error"][0][3] == one[0][3] + two[0][3] > 0
    assert mode["alphas"] == [*ALPHAS]


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_the_grid_is_cheap_where_the_network_is_linear(mode: str) -> None:
    net = network()
    tasks = wide_tasks(net)
    settings = {"modes": [mode], "batch_size": 100}
    disentanglement(net, tasks, alphas=[1.0], **settings)  # proves forward mode, once
    counted, calls = passes(net)
    disentanglement(counted, tasks, alphas=[1.0], **settings)
    calls.clear()
    disentanglement(counted, tasks, alphas=ALPHAS, **settings)
    # plain: every pair, of which 0 serves as alone too, for the examples of either task
    each = {"linear": 2, "plain": 16}[mode]
    assert calls == [*COMPARED, *[15] * each, *COMPARED, *[18] * each]


def test_other_than_two_tasks_and_equal_factors_are_refused() -> None:
    net = network()
    tasks = wide_tasks(net, 3)
    for some, alphas in ((tasks, ALPHAS), (tasks[:1], ALPHAS), (tasks[:2], (1.0, 1.0))):
        with pytest.raises(SettingsError, match="of two task vectors"):
            disentanglement(net, some, alphas=alphas)
    with pytest.raises(SettingsError, match="modes out of linear, plain; found curved"):
        disentanglement(net, tasks[:2], alphas=ALPHAS, modes=["curved"])
