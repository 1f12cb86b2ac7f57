"""``kfac evaluate`` gives heads to task vectors that have none, and ``apply`` talks."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from kfac_artifacts.sources import load_network
from kfac_artifacts.task_vector import ClassifierHead, TaskVector
from kfac_cli.tasks import split_columns
from tests.commands import kfac
from tests.models import SavedModel

TEXTS = [("the dog runs", "dog"), ("a cat sits", "cat"), ("a white bird", "bird")] * 2


@pytest.fixture
def place(tmp_path: Path, saved_model: SavedModel) -> Path:
    """A model, a task vector of it with a head and one without, and data."""
    network = load_network(str(saved_model("bert")), device="cpu")
    name = "encoder.layer.1.output.dense.weight"
    tensors = {name: torch.ones(network.shapes[name])}
    info, base = network.output_map.info, network.base.restrict(tensors.keys())
    head = ClassifierHead(torch.eye(3, 8), ("dog", "cat", "bird"), 20.0)
    TaskVector(tensors, base, info, head).save(tmp_path / "with")
    TaskVector(tensors, base).save(tmp_path / "without")
    with (tmp_path / "data.csv").open("w") as file:
        csv.writer(file).writerows([("text", "label"), *TEXTS])
    return tmp_path


def evaluate(
    saved_model: SavedModel, place: Path, vector: str, *options: Path | str
) -> Result:
    arguments = [
        "evaluate",
        str(saved_model("bert")),
        f"{place / vector}={place}/data.csv",
    ]
    return kfac(*arguments, *options, "--device", "cpu")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--template", "it is a {}"),
        ("--head", "prototypes"),
        ("--class-texts", "t.json"),
    ],
    ids=["names", "template", "prototypes", "texts"],
)
def test_a_vector_without_head_is_given_one(
    saved_model: SavedModel, place: Path, options: tuple[Any, ...]
) -> None:
    (place / "t.json").write_text(
        json.dumps({"dog": "a dog", "cat": "a cat", "bird": "it"})
    )
    words = [place / o if o == "t.json" else o for o in options]
    result = evaluate(saved_model, place, "without", *words, "--json")
    assert result.exit_code == 0, result.output
    assert "without has no head; made of " in result.stderr
    assert ("scored" in result.stderr) == ("prototypes" in options)
    tasks = json.loads(result.stdout)["modes"]["linear"]["tasks"]
    assert tasks["without"]["examples"] == len(TEXTS)
    if "prototypes" in options:  # three texts, each twice: each is its own prototype
        assert tasks["without"]["pretrained"] == 1.0


def test_options_of_a_head_that_is_not_needed_are_refused(
    saved_model: SavedModel, place: Path
) -> None:
    assert evaluate(saved_model, place, "with").exit_code == 0
    result = evaluate(saved_model, place, "with", "--head", "prototypes")
    assert result.exit_code == 2
    assert "--head is for task vectors without a head" in result.output


def test_classes_that_are_numbers_are_no_texts_unless_asked(
    saved_model: SavedModel, place: Path
) -> None:
    rows = [
        ("text", "label"),
        *((text, str(i % 3)) for i, (text, _) in enumerate(TEXTS)),
    ]
    with (place / "data.csv").open("w") as file:
        csv.writer(file).writerows(rows)
    refused = evaluate(saved_model, place, "without")
    assert refused.exit_code == 1
    assert "--head prototypes" in refused.output
    done = evaluate(saved_model, place, "without", "--head", "prototypes")
    assert done.exit_code == 0, done.output


def test_apply_says_what_it_wrote_and_what_it_left_out(
    saved_model: SavedModel, place: Path
) -> None:
    import shutil

    source = place / "source"
    shutil.copytree(saved_model("bert"), source)
    (source / "pytorch_model.bin").write_bytes(b"x")
    (source / "README.md").write_text("# base")
    arguments = ["apply", str(source), str(place / "without"), "-o", str(place / "out")]
    result = kfac(*arguments, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "1 task vector added to 1 of 37 tensors, in bfloat16" in result.output
    assert "left out: pytorch_model.bin, pickle" in result.output
    assert re.search(r"rounding takes \d+(\.\d+)? % of", result.output)
    assert "README.md was copied" in result.output
    result = kfac(*arguments, "--force", "--json")
    found = json.loads(result.stdout)
    assert found["left_out"] == {"pytorch_model.bin": "pickle, which can run code"}
    assert found["changed"] == ["encoder.layer.1.output.dense.weight"]
    assert found["dtypes"] == ["float32"]


def test_columns_stand_behind_the_data_of_each_task(
    saved_model: SavedModel, place: Path
) -> None:
    plain = (place / "data.csv").read_text()
    (place / "other.csv").write_text(plain.replace("text,label", "question,intent"))
    model = saved_model("bert")
    pairs = {
        f"{place}/with={place}/data.csv": f"{place}/without={place}/data.csv",
        f"{place}/with={place}/other.csv:question,intent": (
            f"{place}/without={place}/data.csv:text,label"
        ),
    }
    found = [
        json.loads(kfac("evaluate", model, *both, "--json").stdout)["modes"]
        for both in pairs.items()
    ]
    assert found[0] == found[1]
    wrong = kfac("evaluate", model, f"{place}/with={place}/other.csv:text,intent")
    assert wrong.exit_code == 1
    assert "no column 'text'" in wrong.stderr
    assert "columns are question, intent" in wrong.stderr
    for columns in ("question", "question,", "a,b,c,d"):
        pair = f"{place}/with={place}/other.csv:{columns}"
        refused = kfac("evaluate", model, pair)
        assert refused.exit_code == 2
        assert "as in data.csv:text,label" in refused.output


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("org/name", ("org/name", ())),
        ("org/name:config", ("org/name:config", ())),
        ("org/name:config:text,label", ("org/name:config", ("text", "label"))),
        ("org/name:a, b,c", ("org/name", ("a", "b", "c"))),
    ],
)
def test_a_configuration_of_the_hub_is_no_column(data: str, expected: Any) -> None:
    assert split_columns(data) == expected
