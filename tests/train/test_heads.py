"""Heads of class texts and of prototypes."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.sources import make_head
from kfac_artifacts.task_vector import LinearHead, TaskVector
from kfac_artifacts.train import (
    TrainingTask,
    TrainSettings,
    class_texts,
    linear_head,
    prototype_head,
    read_texts,
    text_head,
    train,
)
from kfac_artifacts.train.heads import USUAL_LOGIT_SCALE, _left_out, fitted_scale
from tests.tiny_task import tiny_network, tiny_points


def test_class_names_become_texts() -> None:
    texts = class_texts(["dark_red", "sea-green"], "a photo of a {}")
    assert texts == ["a photo of a dark red", "a photo of a sea green"]
    with pytest.raises(SettingsError, match=r"no \{\}"):
        class_texts(["a"], "a photo")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", '{"b": "two", "a": "one", "c": "more"}'),
        ("t.json", '["one", "two"]'),
        ("t.txt", "one\ntwo\n"),
    ],
)
def test_texts_are_read_by_class(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name, ["a", "b"]) == ["one", "two"]


@pytest.mark.parametrize("content", ['{"a": "one"}', '["one"]', "[1, 2]", "{"])
def test_texts_that_do_not_fit_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(SettingsError):
        read_texts(tmp_path / "t.json", ["a", "b"])


def test_classes_with_the_same_text_are_refused() -> None:
    with pytest.raises(SettingsError, match="classes 1 and 2 of 2 the same"):
        text_head(torch.ones(2, 3), ["a", "b"], logit_scale=1.0)


def _alike(spread: float, each: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Outputs of unit length that are nearly one vector, and their classes."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, 16, generator=generator)
    noise = torch.randn(len(labels), 16, generator=generator)
    features = 10 * torch.ones(16) + spread * (centres[labels] + noise)
    return normalize(features, dim=-1), labels


def _sums(features: Tensor, labels: Tensor) -> Tensor:
    sums = torch.zeros(int(labels.max()) + 1, features.shape[1])
    return sums.index_add_(0, labels, features)


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_a_fitted_scale_has_the_least_loss_of_examples_left_out(spread: float) -> None:
    features, labels = _alike(spread, each=20)
    found = fitted_scale(*_left_out(features, _sums(features, labels), labels))
    assert 2 * USUAL_LOGIT_SCALE < found < 2000

    def loss(scale: float) -> float:
        losses = []
        for i in range(len(features)):
            others = torch.arange(len(features)) != i
            means = normalize(_sums(features[others], labels[others]), dim=-1)
            logits = scale * features[i] @ means.mT
            losses.append(
                cross_entropy(logits.double(), labels[i], label_smoothing=0.1)
            )
        return float(torch.stack(losses).mean())

    assert loss(found) < min(loss(0.9 * found), loss(1.1 * found))


def test_outputs_closer_together_have_a_larger_scale() -> None:
    scales = [
        fitted_scale(*_left_out(x, _sums(x, y), y))
        for x, y in (_alike(2.0, 20), _alike(1.0, 20))
    ]
    assert scales[1] > 2 * scales[0]


def test_a_scale_that_cannot_be_fitted_is_the_usual_one() -> None:
    features, labels = _alike(1.0, each=1)
    left_out = _left_out(features, _sums(features, labels), labels)
    assert left_out[0].shape == (0, 4)
    assert fitted_scale(*left_out) == USUAL_LOGIT_SCALE
    cosines = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    labels = cosines.argmin(1)  # nothing is told apart: less would be better
    assert fitted_scale(cosines, labels) == USUAL_LOGIT_SCALE


@pytest.mark.parametrize(("spread", "expected"), [(0.1, 20.0), (0.01, None)])
def test_texts_have_another_scale_only_where_the_usual_one_is_far_off(
    spread: float, expected: float | None
) -> None:
    """With cosines a tenth as far apart it is ten times as large."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=generator)
    cosines = 0.8 + spread * torch.randn(400, 4, generator=generator)
    cosines[torch.arange(400), labels] += 2 * spread
    found = fitted_scale(cosines, labels)
    if expected is not None:
        assert found == expected
        return
    losses = [
        float(cross_entropy(scale * cosines, labels, label_smoothing=0.1))
        for scale in (0.9 * found, found, 1.1 * found)
    ]
    assert min(losses) == losses[1]


def test_examples_that_can_be_told_apart_leave_a_loss_to_learn_from() -> None:
    labels = torch.arange(2).repeat(10)
    cosines = torch.full((20, 2), 0.9)
    cosines[torch.arange(20), labels] += 0.02
    found = fitted_scale(cosines, labels)
    loss = float(cross_entropy(found * cosines, labels))
    assert 2 * USUAL_LOGIT_SCALE < found < 2000
    assert loss > 0.03


def test_examples_without_labels_are_refused_in_a_line() -> None:
    points = dataclasses.replace(tiny_points(1), labels=())
    with pytest.raises(SettingsError, match="36 examples have 0 labels"):
        prototype_head(tiny_network(), points, range(36))


def test_prototypes_are_means_of_normalised_outputs() -> None:
    network, points = tiny_network(), tiny_points(1)
    head = prototype_head(
        network, points, range(36), logit_scale=1.0, batch_size=7
    ).embeddings
    outputs = network({"x": points.tensors["x"]}).detach()
    for label in range(3):
        mean = outputs[label::3].mean(0)
        torch.testing.assert_close(head[label], mean / mean.norm())


def test_class_without_example_has_no_prototype() -> None:
    with pytest.raises(SettingsError, match="2 of 3 classes: none of the 2"):
        prototype_head(tiny_network(), tiny_points(1), [0, 3], logit_scale=1.0)
    with pytest.raises(SettingsError, match="2 of 3 classes: none of the 2"):
        linear_head(tiny_network(), tiny_points(1), [0, 3])


@pytest.mark.parametrize("decay", [1e-3, 1.0])
def test_a_linear_head_is_the_minimum_of_logistic_regression(decay: float) -> None:
    """The gradient, written out, is zero there; the loss is convex."""
    network, points = tiny_network(), tiny_points(1)
    head = linear_head(network, points, range(30), decay=decay, batch_size=7)
    X = network(points.batch(range(30))).detach().double()
    W, b = head.weight.double(), head.bias.double()
    logits = X @ W.T + b
    torch.testing.assert_close(head.logits(X), logits)
    off = logits.softmax(1) - torch.eye(3)[[*points.labels[:30]]].double()
    torch.testing.assert_close(off.T @ X / 30 + decay * W, 0 * W, rtol=0, atol=1e-6)
    torch.testing.assert_close(off.mean(0), 0 * b, rtol=0, atol=1e-6)
    with pytest.raises(SettingsError, match="above 0"):
        linear_head(network, points, range(30), decay=0.0)


def test_a_linear_head_tells_apart_what_a_line_does() -> None:
    network, points = tiny_network(), tiny_points(1)
    head = make_head(network, points, "linear")
    assert isinstance(head, LinearHead)
    answers = head.logits(network(points.batch(range(36)))).argmax(1)
    assert float((answers == torch.tensor(points.labels)).float().mean()) > 0.8


def test_what_does_not_go_with_a_linear_head_is_refused() -> None:
    network, points = tiny_network(), tiny_points(1)
    with pytest.raises(SettingsError, match="for cosines"):
        make_head(network, points, "linear", logit_scale=3.0)
    with pytest.raises(SettingsError, match="not with linear"):
        make_head(network, points, "linear", texts=["a", "b", "c"])
    with pytest.raises(MismatchError, match="an entry per class, 2; found"):
        LinearHead(torch.zeros(2, 3), torch.zeros(3), ("a", "b"))
    with pytest.raises(MismatchError, match="one row per class"):
        LinearHead(torch.zeros(2, 3), torch.zeros(2), ("a", "b", "c"))
    with pytest.raises(MismatchError, match="outputs of size 3"):
        LinearHead(torch.zeros(2, 3), torch.zeros(2), ("a", "b")).logits(
            torch.zeros(1, 4)
        )


def test_a_task_vector_is_trained_with_a_linear_head_and_keeps_it(
    tmp_path: Path,
) -> None:
    network, points = tiny_network(), tiny_points(1)
    head = make_head(network, points, "linear")
    settings = TrainSettings(steps=5, batch_size=8, learning_rate=0.01)
    train(network, TrainingTask(points, head), settings).save(tmp_path / "tau")
    vector = TaskVector.load(tmp_path / "tau")
    assert isinstance(vector.head, LinearHead)
    assert vector.head.classes == head.classes
    for name, tensor in head.tensors().items():
        assert torch.equal(vector.head.tensors()[name], tensor)
    assert vector.settings["head"] == "linear"
