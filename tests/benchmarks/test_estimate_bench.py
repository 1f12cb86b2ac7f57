"""The benchmark of the estimator runs at toy size, and its ratios are what they say."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PEERS = Path(sys.prefix) / "peers"  # where `make bench` puts kronfluence
TINY = ["--models", "tiny", "--examples", "4", "--batch-size", "4", "--json"]


def _run(*arguments: str) -> list[str]:
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    done = subprocess.run(
        [sys.executable, "benchmarks/estimate.py", *TINY, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What a comparison and the paper's task print."""
    return _run("--rounds", "1", "--paper")


@pytest.fixture(scope="module")
def results(lines: list[str]) -> dict[str, Any]:
    """Its last line."""
    return json.loads(lines[-1])


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """The module that turns findings into ratios, and those that it stands on."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = ("config", "runner", "report")
    return [importlib.import_module(f"estimation.{name}") for name in names]


def _installed(peer: str) -> bool:
    beside = (PEERS / peer).is_dir()
    return beside or importlib.util.find_spec(peer) is not None


def test_the_ratio_to_the_floor_is_that_of_the_seconds(results: dict[str, Any]) -> None:
    (model,) = results["models"]
    parts = model["floor"]
    assert set(parts) == {"forward", "backward", "products"}
    assert all(part > 0 for part in parts.values())
    floor = sum(parts.values())
    assert model["seconds"]["floor"] == pytest.approx(floor)
    assert results["ratio_to_floor"] == pytest.approx(model["seconds"]["ours"] / floor)


@pytest.mark.parametrize("peer", ["kronfluence", "curvlinops"])
def test_a_peer_finds_the_same_factors_and_its_speedup_is_that_of_the_seconds(
    results: dict[str, Any], peer: str
) -> None:
    if not _installed(peer):
        pytest.skip(f"{peer} is not installed; `make bench` installs it")
    (model,) = results["models"]
    seconds = model["seconds"]
    assert model["largest_relative_difference"][peer] < 1e-5
    speedup = pytest.approx(seconds[peer] / seconds["ours"])
    assert results[f"speedup_vs_{peer}"] == speedup


def test_memory_is_compared_with_kronfluence(results: dict[str, Any]) -> None:
    if not _installed("kronfluence"):
        pytest.skip("kronfluence is not installed; `make bench` installs it")
    (model,) = results["models"]
    peak, base = model["peak_bytes"], model["baseline_bytes"]
    assert all(peak[tool] >= base[tool] > 0 for tool in peak)
    ratio = pytest.approx(peak["ours"] / peak["kronfluence"])
    assert results["peak_memory_ratio_vs_kronfluence"] == ratio


@pytest.mark.parametrize("peer", ["kronfluence", "curvlinops"])
def test_a_peer_is_compared_with_or_told_to_be_missing(
    lines: list[str], results: dict[str, Any], peer: str
) -> None:
    told = any(
        line.startswith(f"{peer} is not installed") and "pip install" in line
        for line in lines
    )
    assert told == (results[f"speedup_vs_{peer}"] is None)


def test_without_peers_their_ratios_are_null(report: list[ModuleType]) -> None:
    config, runner, summaries = report
    found = runner.Findings(
        rounds={
            "floor": [
                {"forward": {"wall": 3.0, "cpu": 2.0}, "products": _both(1.0)},
                {"forward": {"wall": 4.0, "cpu": 1.0}, "products": _both(3.0)},
            ],
            "ours": [{"seconds": _both(9.0)}, {"seconds": _both(6.0)}],
        },
        baseline={"floor": 1, "ours": 1},
        peak={"floor": 2, "ours": 3},
        difference={},
        linears=2,
    )
    tiny = config.Case("tiny", 2, 4, 4, "cpu", 1)
    summary = summaries.summarise(tiny, found)
    ratios = {key: summary[key] for key in summaries.KEYS}
    assert ratios.pop("ratio_to_floor") == 6.0 / (1.0 + 1.0)  # the best of each part
    assert set(ratios.values()) == {None}


def test_what_ekfac_does_beyond_kfac_has_a_floor() -> None:
    results = json.loads(_run("--rounds", "1", "--estimators")[-1])
    (model,) = results["models"]
    parts, seconds = model["floor_ekfac"], model["seconds"]
    assert set(parts) == {"eigen", "turned", "gradients"}
    assert all(part > 0 for part in parts.values())
    floor = 1 + sum(parts.values()) / seconds["ours"]
    assert results["ekfac_floor_vs_kfac"] == pytest.approx(floor)
    ratio = pytest.approx(seconds["ours_ekfac"] / seconds["ours"])
    assert results["ekfac_vs_kfac"] == ratio


def _both(seconds: float) -> dict[str, float]:
    return {"wall": seconds, "cpu": seconds}


def test_the_papers_task_is_measured_in_shares_of_the_peak_rate(
    results: dict[str, Any],
) -> None:
    task = results["paper_task"]
    rate = task["operations_per_second"]
    assert task["seconds"] > 0
    assert rate > 0
    share = rate / task["peak_operations_per_second"]
    assert task["share_of_peak"] == pytest.approx(share)
