"""The command ``kfac import``: what it says, writes and refuses."""

import json
from pathlib import Path

import pytest
import torch

import kfac_artifacts as kfac
from kfac_artifacts.choices import IMPORTS
from tests.commands import bad, good
from tests.models import SavedModel

A = "encoder.layer.0.attention.self.query"


@pytest.fixture
def covariances(tmp_path: Path) -> Path:
    path = tmp_path / "cov.pt"
    torch.save({f"bert.{A}": torch.eye(9)}, path)
    return path


def test_an_artifact_is_made_of_a_file_and_a_model(
    saved_model: SavedModel, covariances: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "out", saved_model("bert")
    words = ("import", "covariances", covariances, "--model", model, "-o", out)
    shown = json.loads(good(*words, "--examples", 5, "--data-id", "mails", "--json"))
    assert shown["modules"] == 1
    assert shown["sources"][0]["data"] == "mails"
    artifact = kfac.load_artifact(out)
    assert {*artifact.blocks} == {A}
    assert "converted from" in good(*words, "--examples", 5, "--force")
    assert "all 2 covered weights agree" in good("verify", out, "--model", model)


def test_what_is_missing_or_does_not_belong_is_said_by_its_option(
    saved_model: SavedModel, covariances: Path, tmp_path: Path
) -> None:
    rest = (covariances, "--model", saved_model("bert"), "-o", tmp_path / "out")
    assert "--examples" in bad("import", "covariances", *rest)
    assert "say it (--positions)" in bad("import", "tak", *rest)
    own = bad("import", "covariances", *rest, "--draws", 1)
    assert "draws does not go with covariances, but with tak" in own
    assert "OLD=NEW" in bad("import", "covariances", *rest, "--rename", "x", code=2)
    assert "--output-map" in bad("import", "kronfluence", *rest)


def test_every_format_is_offered() -> None:
    text = good("import", "--help")
    _, _, listed = text.partition("Formats:\n")
    lines = listed.splitlines()[: len(IMPORTS)]
    assert [line.split()[0] for line in lines] == list(IMPORTS)
