"""What would change with the batch size is neither trained, predicted nor measured."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor, nn

from kfac_artifacts.errors import CoverageError
from kfac_artifacts.evaluate import (
    ControlTask,
    disentanglement,
    evaluate,
    localise,
    negate,
    predict,
)
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.train import TrainingTask, prototype_head, train
from tests.evaluate.by_hand import network, wide_tasks
from tests.tiny_task import SETTINGS, tiny_network, tiny_points

WHY = "depends on the batch: of example"


def _of_batch(network: Network) -> Network:
    """The same network, of whose f the mean over the batch is taken away."""

    def centred(module: nn.Module, batch: Batch) -> Tensor:
        output = network.output_map.apply(module, batch)
        return output - 0.5 * output.mean(0)

    return replace(network, output_map=replace(network.output_map, apply=centred))


def _evaluate() -> None:
    evaluate(_of_batch(network()), wide_tasks(network()))


def _negate() -> None:
    first, second = wide_tasks(network())
    assert second.vector.head is not None
    control = ControlTask("control", second.examples, second.vector.head)
    negate(_of_batch(network()), [first], control)


def _disentanglement() -> None:
    disentanglement(_of_batch(network()), wide_tasks(network()), alphas=[0.0, 1.0])


def _localise() -> None:
    tasks = wide_tasks(network())
    data = {task.name: task.examples for task in tasks}
    localise(_of_batch(network()), {tasks[0].name: tasks[0].vector}, data)


def _predict() -> None:
    task, _ = wide_tasks(network())
    predict(_of_batch(network()), task.examples, [task.vector])


def _train() -> None:
    points = tiny_points(1)
    head = prototype_head(tiny_network(), points, range(36))
    train(_of_batch(tiny_network()), TrainingTask(points, head), SETTINGS)


@pytest.mark.parametrize(
    "use",
    [_evaluate, _negate, _disentanglement, _localise, _predict, _train],
)
def test_an_f_of_the_batch_is_refused(use: Callable[[], None]) -> None:
    with pytest.raises(CoverageError, match=WHY):
        use()
