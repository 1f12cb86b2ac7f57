"""``kfac join``: parts of one estimation, by commands alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import bad, good
from tests.computed import COMPUTE
from tests.models import SavedModel

LAYER = "encoder.layer.0.*"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    lines = [
        "a cat",
        "the red bird sings",
        "a dog runs",
        "it is good",
        "the black fish",
    ]
    path = tmp_path / "texts.csv"
    path.write_text("\n".join(["text", *lines]) + "\n")
    return path


@pytest.mark.parametrize("estimator", ["kfac", "nearest"])
def test_parts_computed_apart_are_joined(
    saved_model: SavedModel, tmp_path: Path, texts: Path, estimator: str
) -> None:
    start = (*COMPUTE, saved_model("bert"), texts, "--estimator", estimator, "-o")
    low, high, whole = (tmp_path / name for name in ("low", "high", "whole"))
    good(*start, low, "--modules", LAYER)
    good(*start, high, "--exclude", LAYER)
    wanted = json.loads(good(*start, whole, "--json"))
    joined = json.loads(good("join", low, high, "-o", tmp_path / "joined", "--json"))
    for key in ("modules", "parameters", "examples"):
        assert joined[key] == wanted[key], key
    good("verify", tmp_path / "joined", "--model", saved_model("bert"))


def test_what_does_not_belong_together_is_one_line_and_leaves_nothing(
    saved_model: SavedModel, tmp_path: Path, texts: Path
) -> None:
    start = (*COMPUTE, saved_model("bert"), texts, "-o")
    good(*start, tmp_path / "one")
    good(*start, tmp_path / "two", "--seed", 1)
    output = bad("join", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "x")
    assert "cotangents" in output
    assert "more than one has the parameter" in output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--cotangents", "exact", "--draws", "2"), 2, "--draws"),
        (("--terms", "2"), 1, "nearest"),
        (("--estimator", "nearest", "--examples", "3"), 1, "at least 4"),
        (("--engine", "curvlinops", "--resume"), 2, "native engine"),
        (("--engine", "curvlinops", "--estimator", "nearest"), 1, "curvlinops"),
    ],
)
def test_choices_that_cannot_work_are_refused(
    saved_model: SavedModel,
    tmp_path: Path,
    texts: Path,
    words: tuple[Any, ...],
    code: int,
    message: str,
) -> None:
    start = (*COMPUTE, saved_model("bert"), texts, "-o", tmp_path / "x")
    assert message in bad(*start, *words, code=code)
    assert not (tmp_path / "x").exists()
