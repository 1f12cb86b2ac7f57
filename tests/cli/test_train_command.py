"""``kfac train``, ``evaluate`` and ``apply``, from a table to a merged model."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from kfac_artifacts.task_vector import TaskVector
from tests.commands import good, kfac
from tests.computed import COMPUTE
from tests.models import SavedModel

TEXTS = {
    "first": ["the cat runs", "a dog sings", "cat in red", "dog is good"],
    "second": ["the bird runs", "a fish sings", "bird in red", "fish is good"],
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    rows = [f"{text},{label}" for label, texts in TEXTS.items() for text in texts]
    path.write_text("\n".join(["text,label", *rows, ""]))
    return path


def test_command_line_from_curvature_to_a_merged_model(
    tmp_path: Path, table: Path, saved_model: SavedModel
) -> None:
    model, tau, merged = saved_model("bert"), tmp_path / "tau", tmp_path / "merged"
    good(*COMPUTE, model, table, "-o", tmp_path / "curvature")
    trained = good(
        *("train", model, table, "--curvature", tmp_path / "curvature", "-o", tau),
        *("--head", "prototypes", "--steps", 20, "--lr", 0.01, "--batch-size", 4),
        *("--optimizer", "adamw8bit", "--regime", "linearised", "--penalty", "kfac"),
        *("--lambda", 0.1, "--every", 2, "--eval-data", table, "--json"),
        *("--module-weight", "*layer.1*=0.5", "--modules", "*layer.1*"),
    )
    result = json.loads(trained)
    assert result["steps"] == 20
    assert result["held_out"]["linear"] > result["held_out"]["pretrained"]
    assert all("layer.1" in name for name in TaskVector.load(tau).tensors)
    plot = tmp_path / "plot.png"
    found = good(
        *("evaluate", model, f"{tau}={table}", "--sweep", "0:1:0.5", "--json"),
        *("--method", "sum"),
        *("--plot", plot),
    )
    linear = json.loads(found)["modes"]["linear"]
    assert linear["alphas"] == [0.0, 0.5, 1.0]
    assert linear["absolute"][0] == linear["pretrained"]
    assert linear["absolute"][2] == linear["individual"]
    assert linear["individual"] == result["held_out"]["linear"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    good("apply", model, tau, "--alpha", 0.5, "--method", "sum", "-o", merged)
    before, after = AutoModel.from_pretrained(model), AutoModel.from_pretrained(merged)
    moved = (0.5 * TaskVector.load(tau)).add_to(before.state_dict())
    for name, value in after.state_dict().items():
        if name.startswith("pooler"):  # not in the checkpoint, so random
            continue
        torch.testing.assert_close(value, moved[name])
    assert (merged / "tokenizer.json").read_bytes() == (
        model / "tokenizer.json"
    ).read_bytes()


def test_command_line_refuses_what_does_not_go_together(
    tmp_path: Path, table: Path, saved_model: SavedModel
) -> None:
    start = ["train", str(saved_model("bert")), str(table), "-o", str(tmp_path / "tau")]
    for wrong, message in {
        ("--steps", "3", "--epochs", "2"): "not both",
        ("--exclude-own", "x"): "goes with --curvature",
        ("--module-weight", "a"): "PATTERN=NUMBER",
    }.items():
        result = kfac(*start, *wrong)
        assert result.exit_code == 2
        assert message in result.output
    result = kfac(*start, "--curvature", tmp_path / "none")
    assert result.exit_code == 3
    assert not (tmp_path / "tau").exists()
