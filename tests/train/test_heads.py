"""Heads of class texts and of prototypes."""

from pathlib import Path

import pytest
import torch

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.train import class_texts, prototype_head, read_texts, text_head
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
