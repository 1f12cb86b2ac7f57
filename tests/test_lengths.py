"""Long texts are put with long ones; whose results they are is not mixed up."""

from dataclasses import dataclass

import pytest
import torch

from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.capture import Sample
from kfac_artifacts.evaluate import EvaluationTask, evaluate, localise, predict
from kfac_artifacts.lengths import WINDOW, LongestFirst
from kfac_artifacts.network import Network, TensorExamples
from kfac_artifacts.sources import output_map
from kfac_artifacts.task_vector import LinearHead, TaskVector
from tests.models import tiny_bert

MODES = ("linear", "plain")


@dataclass(frozen=True, eq=False)
class Texts(TensorExamples):
    """Texts with a class each, padded to the longest of a batch."""

    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ("a", "b", "c")

    def batch(self, indices: object) -> dict[str, torch.Tensor]:
        """Take some, without the positions that none of them has."""
        whole = super().batch(indices)
        longest = int(whole["attention_mask"].sum(1).max())
        return {name: values[:, :longest] for name, values in whole.items()}


def texts(count: int = 23) -> Texts:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 10, (count,), generator=generator)
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(4, 20, (count, 9), generator=generator) * mask
    labels = tuple(int(n) % 3 for n in lengths)
    return Texts({"input_ids": ids, "attention_mask": mask}, "texts", labels)


@pytest.fixture(scope="module")
def network() -> Network:
    module = tiny_bert()
    return Network(module, output_map(module), "bert")


@pytest.fixture(scope="module")
def vector(network: Network) -> TaskVector:
    generator = torch.Generator().manual_seed(1)
    name = "encoder.layer.1.output.dense.weight"
    value = network.parameters()[name]
    change = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    rows = torch.randn(3, 8, generator=generator)
    head = LinearHead(rows, torch.zeros(3), ("a", "b", "c"))
    base = network.base_of({name})
    return TaskVector({name: change}, base, network.output_map.info, head)


def test_the_longest_come_first_and_equals_stay() -> None:
    some = texts()
    lengths = some.tensors["attention_mask"].sum(1)
    order = [*LongestFirst(some, range(23))]
    assert sorted(order) == list(range(23))
    expected = sorted(range(23), key=lambda n: (-int(lengths[n]), n))
    assert order == expected
    assert [*LongestFirst(some, [5, 2])] == sorted(
        [0, 1], key=lambda n: [-int(lengths[[5, 2][n]]), n]
    )
    others = TensorExamples({"x": torch.ones(3, 4)}, "x")
    assert [*LongestFirst(others, [2, 0])] == [0, 1]


@pytest.mark.parametrize("start", [0, 6, 7, WINDOW - 3, WINDOW + 5])
def test_a_sample_has_every_example_once_in_an_order_that_batches_do_not_change(
    start: int,
) -> None:
    count = WINDOW + 20
    some = texts(count)
    orders = []
    for size in (1, 3, 64):
        sample = Sample(some, range(count), Cotangents("mc", 1, 0), size)
        loaded = list(sample.batches(start))
        orders.append([ordinal for each in loaded for ordinal in each.ordinals])
        for each in loaded[:5]:
            batch = some.batch(each.ordinals)
            assert all(torch.equal(each.batch[n], batch[n]) for n in batch)
    assert orders[0] == orders[1] == orders[2]
    whole = Sample(some, range(count), Cotangents("mc", 1, 0), 5)
    rest = [ordinal for each in whole.batches() for ordinal in each.ordinals]
    assert sorted(rest) == list(range(count))
    assert rest[start:] == orders[0]
    assert sorted(rest[:WINDOW]) == list(range(WINDOW))
    lengths = some.tensors["attention_mask"].sum(1)[rest[:WINDOW]]
    assert bool((lengths.diff() <= 0).all())


@pytest.mark.parametrize("mode", MODES)
def test_predictions_are_of_the_rows_that_they_stand_for(
    network: Network, vector: TaskVector, mode: str
) -> None:
    found = predict(network, texts(), [vector], mode=mode, batch_size=4)
    alone = predict(network, texts(), [vector], mode=mode, batch_size=1)
    torch.testing.assert_close(found.probabilities, alone.probabilities)
    assert len(found.probabilities.unique(dim=0)) == 23


@pytest.mark.parametrize("mode", MODES)
def test_right_answers_and_changes_are_of_their_rows(
    network: Network, vector: TaskVector, mode: str
) -> None:
    some = texts()
    right = predict(network, some, [vector], mode=mode, batch_size=1)
    given = right.probabilities.argmax(1)
    share = float((given == torch.tensor(some.labels)).double().mean())
    task = EvaluationTask("t", vector, some)
    (scores,) = evaluate(network, [task], modes=[mode], batch_size=4).modes
    assert scores.individual == pytest.approx(share)
    assert 0 < share < 1
    data = {"t": some, "other": texts(24)}
    sizes = [
        localise(network, {"t": vector}, data, modes=[mode], batch_size=size)
        for size in (1, 4)
    ]
    one, several = (each.modes[mode][0].scores["t"] for each in sizes)
    torch.testing.assert_close(one, several)
