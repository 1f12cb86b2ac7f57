"""``kfac train``, ``evaluate`` and ``apply``, from a table to a merged model."""

import json
from pathlib import Path
from typing import Any

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
    plain = json.loads(found)["modes"]["plain"]
    assert plain["individual"] == result["held_out"]["plain"]
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


@pytest.mark.parametrize(
    ("how", "described"),
    [
        (["--regime", "ordinary"], {"name": "ordinary"}),
        (["--regime", "attention"], {"name": "attention"}),
        (
            ["--regime", "lora", "--rank", 2, "--lora-alpha", 4],
            {"name": "lora", "rank": 2, "alpha": 4.0},
        ),
        (["--regime", "talos", "--share", "20%"], {"name": "talos", "share": 0.2}),
        (
            ["--regime", "delta", "--path", 0.8, 1.5, "--draw", 2],
            {"name": "delta", "path": [0.8, 1.5], "draw": 2.0},
        ),
    ],
)
def test_every_regime_is_trained_by_the_command_and_applied(
    tmp_path: Path, table: Path, saved_model: SavedModel, how: Any, described: Any
) -> None:
    """What was measured of the moved network is what the model that is written does."""
    model, tau, curvature = saved_model("bert"), tmp_path / "tau", tmp_path / "a"
    good(*COMPUTE, model, table, "-o", curvature)
    trained = good(
        *("train", model, table, "--curvature", curvature, "-o", tau, *how),
        *("--head", "prototypes", "--steps", 5, "--lr", 0.01, "--batch-size", 4),
        *("--eval-data", table, "--json"),
    )
    assert TaskVector.load(tau).settings["regime"] == described
    found = good("evaluate", model, f"{tau}={table}", "--mode", "plain", "--json")
    plain = json.loads(found)["modes"]["plain"]
    assert plain["individual"] == json.loads(trained)["held_out"]["plain"]


@pytest.mark.parametrize("penalty", ["kfac-per-task", "tau-jp", "orthoreg"])
def test_every_penalty_is_used_by_the_command(
    tmp_path: Path, table: Path, saved_model: SavedModel, penalty: str
) -> None:
    model, tau = saved_model("bert"), tmp_path / "tau"
    known = {"tau-jp": ["--others", table, "--others", table]}
    if penalty == "kfac-per-task":
        for name, seed in (("a", 0), ("b", 1)):
            options = ("--examples", 4, "--seed", seed)
            good(*COMPUTE, model, table, *options, "-o", tmp_path / name)
            known.setdefault(penalty, []).extend(["--curvature", tmp_path / name])
    good(
        *("train", model, table, "--penalty", penalty, *known.get(penalty, [])),
        *("--head", "prototypes", "--steps", 3, "--batch-size", 4, "-o", tau),
    )
    vector = TaskVector.load(tau)
    described: Any = vector.settings["penalty"]
    assert described["name"] == penalty
    assert len(described.get("others", vector.settings["curvature"])) == (
        0 if penalty == "orthoreg" else 2
    )
    assert vector.metrics["penalty"] > 0


def test_command_line_refuses_what_does_not_go_together(
    tmp_path: Path, table: Path, saved_model: SavedModel
) -> None:
    start = ["train", str(saved_model("bert")), str(table), "-o", str(tmp_path / "tau")]
    for wrong, message in {
        ("--steps", "3", "--epochs", "2"): "not both",
        ("--exclude-own", "x"): "goes with --curvature",
        ("--module-weight", "a"): "PATTERN=NUMBER",
        ("--factors", "host"): "--factors goes with --curvature",
        ("--rank", "4"): "--rank goes with --regime lora",
        ("--regime", "lora", "--share", "5%"): "--share goes with --regime talos",
        ("--others", str(table)): "--others goes with --penalty tau-jp",
        ("--penalty", "kfac-per-task"): "kfac-per-task needs --curvature",
        ("--penalty", "tau-jp"): "tau-jp needs --others",
    }.items():
        result = kfac(*start, *wrong)
        assert result.exit_code == 2
        assert message in result.output
    result = kfac(*start, "--curvature", tmp_path / "none")
    assert result.exit_code == 3
    assert not (tmp_path / "tau").exists()
