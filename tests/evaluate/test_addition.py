"""Evaluation against one-by-one counting, and its picture."""

import dataclasses
import sys
from pathlib import Path

import click
import pytest
import torch

from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate import (
    Evaluation,
    EvaluationTask,
    ModeScores,
    TaskScores,
    evaluate,
    plot_evaluation,
)
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Network
from kfac_artifacts.plotting import check_plottable
from kfac_artifacts.task_vector import TaskVector, Ties, merge_task_vectors
from kfac_artifacts.train import TrainSettings, train
from kfac_cli.evaluate import grid
from tests.evaluate.by_hand import COMPARED, passes
from tests.tiny_task import LabelledPoints, tiny_network, tiny_points, tiny_task

ALPHAS = (0.0, 0.5, 1.0, -2.0)


@pytest.fixture(scope="module")
def network() -> Network:
    return tiny_network()


@pytest.fixture(scope="module")
def tasks(network: Network) -> list[EvaluationTask]:
    settings = TrainSettings(steps=30, batch_size=12, learning_rate=0.05)
    found = []
    for seed, only in ((1, ()), (2, ("last*",))):
        chosen = dataclasses.replace(settings, modules=only)
        task = tiny_task(network, seed, torch.float32)
        vector = train(network, task, chosen)
        found.append(EvaluationTask(f"task {seed}", vector, tiny_points(seed + 10)))
    return found


def _accuracy(
    network: Network, task: EvaluationTask, tau: TaskVector, mode: str
) -> float:
    """Count right answers, one example at a time."""
    head, right = task.vector.head, 0
    assert head is not None
    state = network.parameters()
    for i, label in enumerate(task.examples.labels):
        batch = task.examples.batch([i])
        if mode == "linear":
            output, change = jvp(network, tau.tensors, batch)
            output = output + change
        else:
            moved = {n: state[n] + change for n, change in tau.tensors.items()}
            output = network.functional_call(moved, batch)
        right += int(head.logits(output.detach()).argmax()) == label
    return right / len(task.examples)


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_accuracies_are_those_counted_one_by_one(
    network: Network, tasks: list[EvaluationTask], mode: str
) -> None:
    found = evaluate(network, tasks, alphas=ALPHAS, modes=[mode], batch_size=7)
    total = merge_task_vectors([task.vector for task in tasks], [1.0, 1.0])
    for task, scores in zip(tasks, found.modes[0].tasks, strict=True):
        assert scores.pretrained == _accuracy(network, task, 0.0 * total, mode)
        assert scores.individual == _accuracy(network, task, task.vector, mode)
        expected = tuple(_accuracy(network, task, a * total, mode) for a in ALPHAS)
        assert scores.merged == expected


def test_individual_is_the_task_vector_itself_even_if_merging_one_changes_it(
    network: Network, tasks: list[EvaluationTask]
) -> None:
    few = Ties(keep=0.01)
    (mode,) = evaluate(network, tasks[:1], modes=["plain"], method=few).modes
    (scores,) = mode.tasks
    trimmed = merge_task_vectors([tasks[0].vector], [1.0], few)
    assert scores.individual == _accuracy(network, tasks[0], tasks[0].vector, "plain")
    assert scores.merged == (_accuracy(network, tasks[0], trimmed, "plain"),)
    assert scores.individual != scores.merged[0]


@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_a_factor_is_chosen_on_other_data_than_it_is_reported_on(
    network: Network, tasks: list[EvaluationTask], mode: str
) -> None:
    others = [tiny_points(seed) for seed in (1, 2)]
    found = evaluate(network, tasks, alphas=ALPHAS, modes=[mode], validation=others)
    moved = [
        dataclasses.replace(t, examples=o) for t, o in zip(tasks, others, strict=True)
    ]
    sweep = evaluate(network, moved, alphas=ALPHAS, modes=[mode]).modes
    assert found.validation == sweep
    means = [sum(t.merged[i] for t in sweep[0].tasks) for i in range(len(ALPHAS))]
    best = ALPHAS[means.index(max(means))]
    assert found.modes == evaluate(network, tasks, alphas=[best], modes=[mode]).modes
    told = found.to_json()
    assert told["validation"] == {mode: sweep[0].to_json()}
    # that on the data of the report another factor looks best is what it is for
    own = evaluate(network, tasks, alphas=ALPHAS, modes=[mode]).modes[0]
    assert own.alphas[own.best] != best


def test_a_factor_is_not_chosen_on_what_is_reported(
    network: Network, tasks: list[EvaluationTask]
) -> None:
    same = [tiny_points(30), tasks[1].examples]
    with pytest.raises(MismatchError, match="task 2 would be reported on the very"):
        evaluate(network, tasks, alphas=ALPHAS, validation=same)
    with pytest.raises(MismatchError, match="2 tasks, and validation data for 1"):
        evaluate(network, tasks, alphas=ALPHAS, validation=same[:1])


def test_a_sweep_in_linear_mode_needs_two_passes_per_batch(
    network: Network, tasks: list[EvaluationTask]
) -> None:
    watched, calls = passes(network)
    settings = {"modes": ["linear"], "batch_size": 36}
    evaluate(watched, tasks, **settings)  # forward mode is proved here, once
    calls.clear()
    evaluate(watched, tasks, alphas=ALPHAS * 10, **settings)
    assert calls == [*COMPARED, 36, 36] * len(tasks)


def test_network_is_left_as_it_was_found(
    network: Network, tasks: list[EvaluationTask]
) -> None:
    before = {n: t.clone() for n, t in network.module.state_dict().items()}
    evaluate(network, tasks)
    after = network.module.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_task_vector_of_another_model_is_refused(tasks: list[EvaluationTask]) -> None:
    with pytest.raises(MismatchError, match="another model"):
        evaluate(tiny_network(seed=5), tasks)


def test_task_vector_of_another_output_map_is_refused(
    network: Network, tasks: list[EvaluationTask]
) -> None:
    info = dataclasses.replace(network.output_map.info, name="other")
    output_map = dataclasses.replace(network.output_map, info=info)
    other = Network(network.module, output_map, network.id)
    with pytest.raises(MismatchError, match="output map last, the network's is other"):
        evaluate(other, tasks)


def test_tasks_of_one_name_are_refused(
    network: Network, tasks: list[EvaluationTask]
) -> None:
    same = [dataclasses.replace(task, name="same") for task in tasks]
    with pytest.raises(MismatchError, match="are called same"):
        evaluate(network, same)


@pytest.mark.parametrize("rows", [range(35, -1, -1), range(1, 9)])
def test_validation_data_among_what_is_reported_are_refused(
    network: Network, tasks: list[EvaluationTask], rows: range
) -> None:
    data = tasks[0].examples
    labels = tuple(data.labels[i] for i in rows)
    some = LabelledPoints(data.batch(rows), "some", labels)
    with pytest.raises(MismatchError, match="very data that the factor is chosen"):
        evaluate(network, tasks[:1], validation=[some])


def test_sum_without_head_is_refused(
    network: Network, tasks: list[EvaluationTask]
) -> None:
    bare = dataclasses.replace(tasks[0], vector=1.0 * tasks[0].vector)
    with pytest.raises(MismatchError, match="has no head"):
        evaluate(network, [bare])


def test_nothing_to_evaluate_is_refused(network: Network) -> None:
    with pytest.raises(SettingsError, match="needs a task"):
        evaluate(network, [])


def _scores(*alphas: float) -> ModeScores:
    count = len(alphas)
    return ModeScores(
        "linear",
        alphas,
        (
            TaskScores("a", 10, 0.2, 0.8, tuple(0.4 + 0.1 * i for i in range(count))),
            TaskScores("b", 30, 0.1, 0.5, tuple(0.5 - 0.2 * i for i in range(count))),
        ),
    )


def test_normalised_accuracy_divides_task_by_task() -> None:
    scores = _scores(0.5, 1.0)
    assert scores.absolute == pytest.approx((0.45, 0.4))
    assert scores.normalised == pytest.approx(((0.5 + 1) / 2, (0.625 + 0.6) / 2))
    assert (scores.pretrained, scores.individual) == pytest.approx((0.15, 0.65))
    assert scores.best == 0


def test_normalised_accuracy_is_unknown_where_nothing_was_right() -> None:
    task = TaskScores("a", 10, 0.0, 0.0, (0.1,))
    assert ModeScores("plain", (1.0,), (task,)).normalised == (None,)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plot_is_the_same_bytes_every_time(tmp_path: Path, suffix: str) -> None:
    evaluation = Evaluation("tiny", (_scores(0.0, 0.5, 1.0), _scores(1.0)))
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        plot_evaluation(evaluation, path)
    assert paths[0].stat().st_size > 1000
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_plot_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.png"):
        plot_evaluation(Evaluation("tiny", (_scores(1.0),)), tmp_path / "plot.xyz")


def test_what_draws_figures_is_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"kfac-artifacts\[plot\]"):
        check_plottable(tmp_path / "plot.png")


def test_sweep_lists_both_ends() -> None:
    assert grid("0:1:0.25") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert grid("0:0.3:0.1") == (0.0, 0.1, 0.2, 0.3)
    for wrong in ("", "1:2", "0:1:0", "1:0:0.1", "a:b:c", "0:1e9:0.1", "0:nan:1"):
        with pytest.raises(click.UsageError):
            grid(wrong)


def test_an_answer_that_is_no_number_is_wrong_and_is_counted(
    network: Network, tasks: list[EvaluationTask], caplog: pytest.LogCaptureFixture
) -> None:
    """The largest of several NaN stands for the first class, which half of them are."""
    found = evaluate(network, tasks, alphas=(1.0, 1e38), modes=("plain",))
    (scores,) = found.modes
    assert all(task.merged[0] > 0 and task.merged[1] == 0 for task in scores.tasks)
    count = len(tasks[0].examples)
    assert f"of {count} examples are not finite, which counts as wrong" in caplog.text
