"""The command ``kfac export``: what it says, writes and refuses."""

import json
from pathlib import Path

import pytest

import kfac_artifacts as kfac
from kfac_artifacts.choices import EXPORTS
from tests.bridges.oracle import inputs_computed
from tests.commands import bad, good


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    kfac.save_artifact(inputs_computed(), tmp_path / "it")
    return tmp_path / "it"


def test_files_are_written_and_what_is_left_out_is_told(
    artifact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stats"
    words = ("export", "memit-npz", artifact, "-o", out, "--prefix", "h.")
    shown = json.loads(good(*words, "--samples", 9, "--json"))
    assert shown == {"output": str(out), "format": "memit-npz", "left_out": {}}
    assert (out / "h.first_float32_mom2_9.npz").is_file()
    assert "exists already" in bad(*words)


def test_what_does_not_go_with_a_format_is_said(artifact: Path, tmp_path: Path) -> None:
    words = ("export", "corda", artifact, "-o", tmp_path / "cov.pt")
    refused = bad(*words, "--arch", "llama")
    assert "arch does not go with corda, but with imatrix.gguf" in refused
    assert "corda of" in good(*words)


def test_every_format_is_listed() -> None:
    _, _, listed = good("export", "--help").partition("Formats:\n")
    lines = listed.splitlines()[: len(EXPORTS)]
    assert [line.split()[0] for line in lines] == list(EXPORTS)
