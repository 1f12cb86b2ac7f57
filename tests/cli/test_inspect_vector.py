"""``kfac inspect`` opens task vectors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kfac_artifacts.task_vector import HeadLayer, LayeredHead, LayerInfo, TaskVector
from tests.commands import kfac
from tests.tiny_task import train_tiny


@pytest.fixture
def vector() -> TaskVector:
    return train_tiny(steps=3)


def inspect(path: Path, *options: str) -> str:
    result = kfac("inspect", path, *options)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_trained_task_vector_is_shown_with_base_head_training_and_norms(
    tmp_path: Path, vector: TaskVector
) -> None:
    vector.save(tmp_path / "tau")
    shown = inspect(tmp_path / "tau")
    assert "tau: a task vector of tiny" in shown
    assert "output map: last" in shown
    assert "head: 3 classes, 5 outputs, logit scale 10: red, green, blue" in shown
    assert 'settings: "steps" 3' in shown
    found = json.loads(inspect(tmp_path / "tau", "--json"))
    assert found["settings"]["steps"] == 3
    assert found["metrics"] == vector.metrics
    assert found["base_sha256"] == vector.base.sha256
    assert found["parameters"] == sum(t.numel() for t in vector.tensors.values())
    (first,) = [m for m in found["modules"] if m["name"] == "first"]
    parts = [vector.tensors[n].flatten() for n in ("first.weight", "first.bias")]
    assert first["norm"] == pytest.approx(float(torch.cat(parts).norm()), rel=1e-6)
    assert first["largest"] == pytest.approx(float(torch.cat(parts).abs().max()))
    assert first["tensors"] == {"first.bias": [6], "first.weight": [6, 4]}
    every = torch.cat([t.flatten() for t in vector.tensors.values()])
    assert found["norm"] == pytest.approx(float(every.norm()), rel=1e-6)


def test_a_sum_without_head_is_shown_and_no_escape_sequence(
    tmp_path: Path, vector: TaskVector
) -> None:
    bare = TaskVector(vector.tensors, vector.base, settings={"\x1b[2J": "\x1b]0;x"})
    bare.save(tmp_path / "sum")
    shown = inspect(tmp_path / "sum")
    assert "head: none" in shown
    assert "output map: not recorded" in shown
    assert "\x1b" not in shown


def test_of_a_head_of_many_layers_the_first_are_listed(
    tmp_path: Path, vector: TaskVector
) -> None:
    many = [HeadLayer(LayerInfo("relu"))] * 1000
    last = HeadLayer.linear(torch.ones(2, 5), None)
    head = LayeredHead((*many, last), ("no", "yes"))
    replace(vector, head=head).save(tmp_path / "tau")
    shown = inspect(tmp_path / "tau")
    assert f"2 classes, 5 outputs, {'relu, ' * 7}relu and 993 more: no, yes" in shown


def test_a_damaged_task_vector_is_refused(tmp_path: Path, vector: TaskVector) -> None:
    vector.save(tmp_path / "tau")
    file = tmp_path / "tau" / "task_vector.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    result = kfac("inspect", tmp_path / "tau")
    assert result.exit_code == 3
    assert "damaged" in result.output
