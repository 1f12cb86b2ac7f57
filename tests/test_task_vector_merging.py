"""Methods that make one task vector of several, the package's and one's own."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from kfac_artifacts.choices import MERGES
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate import EvaluationTask, evaluate
from kfac_artifacts.network import Network
from kfac_artifacts.sources import apply, load_network
from kfac_artifacts.task_vector import Merging, TaskVector, merge_task_vectors
from tests.models import SavedModel
from tests.tiny_task import tiny_network, tiny_points, tiny_task

NAMES = ("first.weight", "last.bias")


class Boldest(Merging):
    """Of every number the change of the largest size, if it is no small one at all."""

    def __init__(self, vectors: Sequence[TaskVector], alphas: Sequence[float]) -> None:
        super().__init__(vectors, alphas)
        every = [t.abs().flatten() for name in self.names for t in self.terms(name)]
        self.least = torch.cat(every).median()

    def change(self, name: str) -> Tensor:
        terms = torch.stack(self.terms(name))
        boldest = terms.gather(0, terms.abs().argmax(0, keepdim=True))[0]
        return torch.where(boldest.abs() < self.least, 0.0, boldest)


def vector(network: Network, seed: int, names: tuple[str, ...]) -> TaskVector:
    generator = torch.Generator().manual_seed(seed)
    shapes = network.shapes
    tensors = {n: torch.randn(shapes[n], generator=generator) for n in names}
    return TaskVector(tensors, network.base.restrict(set(names)))


@pytest.fixture(scope="module")
def vectors() -> list[TaskVector]:
    network = tiny_network()
    return [vector(network, 1, NAMES), vector(network, 2, NAMES[:1])]


def test_every_method_keeps_what_only_one_moved(vectors: list[TaskVector]) -> None:
    for method in MERGES.keys() - {"regmean"}:  # which needs more, and has its tests
        found = merge_task_vectors(vectors, [1.0, 1.0], method)
        assert {n: t.shape for n, t in found.tensors.items()} == {
            n: t.shape for n, t in vectors[0].tensors.items()
        }
        assert found.base.shapes == vectors[0].base.shapes


def test_a_sum_is_what_the_operators_give(vectors: list[TaskVector]) -> None:
    a, b = vectors
    assert (
        merge_task_vectors(vectors, [0.5, -2.0]).sha256 == (0.5 * a + -2.0 * b).sha256
    )
    assert (
        merge_task_vectors(vectors, [0.5, -2.0], "sum").sha256
        == (0.5 * a + -2.0 * b).sha256
    )


def test_a_method_of_ones_own_merges(vectors: list[TaskVector]) -> None:
    found = merge_task_vectors(vectors, [1.0, 3.0], Boldest).tensors
    a, b = vectors[0].tensors, 3 * vectors[1].tensors["first.weight"]
    least = torch.cat([t.abs().flatten() for t in (*a.values(), b)]).median()
    for name, other in (("first.weight", b), ("last.bias", torch.zeros(5))):
        bold = torch.where(other.abs() > a[name].abs(), other, a[name])
        bold[bold.abs() < least] = 0
        torch.testing.assert_close(found[name], bold)


def test_evaluation_measures_what_the_method_gives(vectors: list[TaskVector]) -> None:
    network = tiny_network()
    head = tiny_task(network, 1, torch.float32).head
    tasks = [
        EvaluationTask(f"{i}", vector, tiny_points(i), head)
        for i, vector in enumerate(vectors)
    ]
    found = evaluate(network, tasks, alphas=(0.7,), method=Boldest)
    merged = merge_task_vectors(vectors, [1.0, 1.0], Boldest)
    alone = [dataclasses.replace(task, vector=merged) for task in tasks]
    for task in alone:
        expected = evaluate(network, [task], alphas=(0.7,))
        for mode, wanted in zip(found.modes, expected.modes, strict=True):
            scores = {t.name: t.merged for t in mode.tasks}
            assert scores[task.name] == wanted.tasks[0].merged


def test_a_model_is_written_with_what_the_method_gives(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    model = saved_model("bert")
    network = load_network(str(model), device="cpu")
    names = tuple(n for n in network.parameters() if "layer.1.attention.self" in n)
    pair = [vector(network, 1, names), vector(network, 2, names[:2])]
    apply(model, pair, tmp_path / "new", method=Boldest)
    merged = merge_task_vectors(pair, [1.0, 1.0], Boldest)
    before, after = (
        AutoModel.from_pretrained(model),
        AutoModel.from_pretrained(tmp_path / "new"),
    )
    wanted = merged.add_to(dict(before.named_parameters()))
    for name in names:
        torch.testing.assert_close(after.get_parameter(name), wanted[name])
    marker = json.loads((tmp_path / "new" / "kfac_apply.json").read_text())
    assert marker["method"] == "Boldest"


def test_what_cannot_be_merged_is_refused(vectors: list[TaskVector]) -> None:
    with pytest.raises(SettingsError, match=r"no merge method 'nothing'.*'sum'"):
        merge_task_vectors(vectors, [1.0, 1.0], "nothing")
    with pytest.raises(MismatchError, match="2 task vectors with 1 factors"):
        merge_task_vectors(vectors, [1.0], Boldest)
    other = vector(tiny_network(seed=3), 1, NAMES)
    with pytest.raises(MismatchError, match="other values in first"):
        merge_task_vectors([vectors[0], other], [1.0, 1.0], Boldest)
