"""The README's Python runs, on a tiny model that stands where the real one would."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kfac_artifacts as kfac
from tests import models
from tests.commands import good
from tests.computed import compute

README = Path(__file__).parent.parent / "README.md"
STEEP = 16
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the model and the artifact that the example names."""
    monkeypatch.chdir(tmp_path)
    models.save_tiny_bert(tmp_path / MODEL)
    network = kfac.load_network(MODEL)
    f = (
        network.output_map.apply
    )  # steep, so that a first step of full length is too long
    steep = kfac.OutputMap(kfac.NamedConfig("steep"), lambda m, b: STEEP * f(m, b))
    network = kfac.Network(network.module, steep, network.id)
    examples = kfac.TensorExamples(models.text_batch(), "three")
    kfac.save_artifact(compute(network, examples), tmp_path / "total")
    return tmp_path


def run(*arguments: str) -> Any:
    return json.loads(good(*arguments, "--json"))


def test_the_example_trains_a_task_vector_that_can_be_evaluated(place: Path) -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    losses: list[float] = []

    def loader() -> Iterator[Any]:
        for _ in range(60):
            yield models.text_batch(), torch.tensor([0, 1, 1])
            losses.append(names["loss"].item())

    names["loader"] = loader()
    exec(code, names)
    vector = kfac.TaskVector.load(place / "tau-mine")
    assert set(vector.tensors) == set(names["penalty"].parameters)
    assert any(t.norm() > 0 for t in vector.tensors.values())
    assert max(losses) <= 1.002 * losses[0]
    assert losses[-1] < 0.99 * losses[0]
    rows = [("a refund", "the dog runs"), ("a lost card", "a cat sits")]
    data = [json.dumps({"text": text, "label": label}) for label, text in rows]
    (place / "mine.jsonl").write_text("\n".join(data))
    found = run("evaluate", MODEL, "tau-mine=mine.jsonl", "--mode", "linear")
    assert found["modes"]["linear"]["tasks"]["tau-mine"]["examples"] == 2


def test_the_commands_of_the_readme_exist() -> None:
    from kfac_cli.main import main

    named = set(re.findall(r"(?<![\w-])kfac (\w+) ", README.read_text()))
    assert named >= {"compute", "merge", "push", "pull", "train", "apply", "evaluate"}
    assert named - {"is", "load", "wrote"} <= set(main.commands)


def test_a_module_of_your_own_is_a_network(tmp_path: Path) -> None:
    (line,) = re.findall(r"`(kfac\.Network\(.*?\))`", README.read_text())
    (examples,) = re.findall(r"`(kfac\.TensorExamples\(.*?\))`", README.read_text())
    names = {"kfac": kfac, "module": torch.nn.Linear(4, 3), "x": torch.randn(70, 4)}
    artifact = kfac.compute(eval(line, names), eval(examples, names))
    assert set(artifact.parameters) == {"weight", "bias"}
    kfac.save_artifact(artifact, tmp_path / "mine")
    assert kfac.load_artifact(tmp_path / "mine").parameters == artifact.parameters
