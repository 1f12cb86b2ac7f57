"""The README's Python runs, on a tiny model that stands where the real one would."""

import re
from pathlib import Path

import pytest
import torch

import kfac_artifacts as kfac
from tests import models
from tests.computed import compute

README = Path(__file__).parent.parent / "README.md"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with the model and the artifact that the example names."""
    monkeypatch.chdir(tmp_path)
    models.save_tiny_bert(tmp_path / MODEL)
    network = kfac.load_network(MODEL)
    examples = kfac.TensorExamples(models.text_batch(), "three")
    kfac.save_artifact(compute(network, examples), tmp_path / "total")
    return tmp_path


def test_the_example_trains_a_task_vector(place):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    loader = [(models.text_batch(), torch.tensor([0, 1, 1]))] * 3
    names = {"loader": loader}
    exec(code, names)
    vector = kfac.TaskVector.load(place / "tau-mine")
    assert set(vector.tensors) == set(names["penalty"].parameters)
    assert any(t.norm() > 0 for t in vector.tensors.values())


def test_the_commands_of_the_readme_exist():
    from kfac_cli.main import main

    named = set(re.findall(r"kfac (\w+) ", README.read_text()))
    assert named >= {"compute", "merge", "push", "pull", "train", "apply", "evaluate"}
    assert named - {"is", "load"} <= set(main.commands)


def test_a_module_of_your_own_is_a_network(tmp_path):
    (line,) = re.findall(r"`(kfac\.Network\(.*?\))`", README.read_text())
    (examples,) = re.findall(r"`(kfac\.TensorExamples\(.*?\))`", README.read_text())
    names = {"kfac": kfac, "module": torch.nn.Linear(4, 3), "x": torch.randn(70, 4)}
    artifact = kfac.compute(eval(line, names), eval(examples, names))
    assert set(artifact.parameters) == {"weight", "bias"}
    kfac.save_artifact(artifact, tmp_path / "mine")
    assert kfac.load(tmp_path / "mine").parameters == artifact.parameters
