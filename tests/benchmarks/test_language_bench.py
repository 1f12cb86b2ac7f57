"""The benchmarks of language models run at toy size, and their ratios are right."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PEERS = Path(sys.prefix) / "peers"  # where `make .venv/peers` puts them
TINY = ("--model", "tiny", "--examples", "4", "--tokens", "8", "--batch-size", "4")


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    return subprocess.run(
        [sys.executable, f"benchmarks/{program}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What is measured of a model with 2 layers of width 16."""
    pytest.importorskip("peft")
    done = run("language", *TINY, "--quick", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ratios_are_those_of_the_seconds(results: dict[str, Any]) -> None:
    seconds = results["seconds"]
    assert all(each > 0 for each in seconds.values())
    ratio = seconds["ours_inputs"] / seconds["forward"]
    assert results["inputs_vs_forward"] == pytest.approx(ratio)
    ratio = seconds["ours_inputs"] / seconds["floor_inputs"]
    assert results["inputs_vs_floor"] == pytest.approx(ratio)
    ratio = seconds["ours"] / seconds["floor"]
    assert results["lm_fisher_vs_floor"] == pytest.approx(ratio)
    assert results["lora_step_overhead"] > -1
    assert results["peak_mib"].keys() == seconds.keys()


@pytest.mark.parametrize("peer", ["bergson", "kronfluence"])
def test_a_peer_finds_the_same_factors_or_is_told_to_be_missing(
    results: dict[str, Any], peer: str
) -> None:
    if not (PEERS / peer).is_dir():
        assert results[f"speedup_vs_{peer}"] is None
        pytest.skip(f"{peer} is not installed; `make .venv/peers` installs it")
    assert results["difference"][peer] < 1e-5
    ratio = results["seconds"][peer] / results["seconds"]["ours"]
    assert results[f"speedup_vs_{peer}"] == pytest.approx(ratio)


def test_texts_that_fill_no_batch_are_refused() -> None:
    done = run("language", *TINY, "--examples", "6")
    assert done.returncode == 1
    assert "6 texts are no multiple of the batch size 4" in done.stderr


def test_a_family_is_planned_and_its_parameters_are_those_of_its_checkpoint() -> None:
    done = run("plans", "t5-small", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])["t5-small"]
    assert found["output_map"] == "lm-fisher"
    assert found["parameters"] == 60_506_624
    assert 0 < found["covered"] < found["parameters"]
    assert found["blocks"] == 128


def test_a_plan_that_counts_other_parameters_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    plans = importlib.import_module("plans")
    known = json.loads(plans.CONFIGURATIONS.read_text("utf-8"))
    wrong = {"gpt2": {**known["gpt2"], "parameters": 1}}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    monkeypatch.setattr(plans, "CONFIGURATIONS", tmp_path / "wrong.json")
    monkeypatch.setattr(sys, "argv", ["plans.py", "gpt2"])
    with pytest.raises(SystemExit, match="gpt2 has 1 parameters, and the plan counts"):
        plans.main()
