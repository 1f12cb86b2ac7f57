"""The benchmark of training steps: its ratios, and that its case is trained."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from kfac_artifacts.choices import REGIMES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("training")


def test_ratios_are_to_no_penalty_and_to_ordinary_training(bench: Any) -> None:
    arms = [bench.Arm(r, p, 8) for r in bench.BASIC for p in (bench.NONE, "small")]
    seconds = dict(zip(arms, (1.0, 1.5, 2.0, 2.5), strict=True))
    held = dict(zip(arms, (100, 110, 200, 210), strict=True))
    rows = bench._rows(arms, seconds, held)
    assert [row["time_vs_ordinary"] for row in rows] == [1.0, 1.5, 2.0, 2.5]
    assert [row["memory_vs_free"] for row in rows] == [1.0, 1.1, 1.0, 1.05]
    found = bench._summary(rows)
    assert found["linearised_vs_ordinary"] == 2.0
    assert found["penalty_time_overhead"] == 0.25
    assert found["penalty_memory_overhead"] == pytest.approx(0.05)


def test_tau_jp_is_set_beside_the_dense_penalty(bench: Any) -> None:
    penalties = (bench.NONE, bench.DENSE, bench.TAU_JP)
    arms = [bench.Arm(r, p, 8) for r in bench.BASIC for p in penalties]
    seconds = dict(zip(arms, (1.0, 1.1, 1.2, 2.0, 3.0, 9.0), strict=True))
    held = dict(zip(arms, (100, 110, 120, 200, 240, 300), strict=True))
    found = bench._summary(bench._rows(arms, seconds, held))
    assert found["tau_jp_vs_kfac_time"] == pytest.approx(3.0)
    assert found["tau_jp_vs_kfac_memory"] == pytest.approx(1.25)
    assert found["dense_penalty_time_overhead"] == pytest.approx(0.5)
    assert found["dense_penalty_memory_overhead"] == pytest.approx(0.2)


def test_every_regime_is_measured_and_every_penalty(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["training.py"])
    pairs = bench._pairs(bench._options())
    for chosen in REGIMES:
        assert {(chosen, p) for p in (bench.NONE, bench.DENSE, "small")} <= {*pairs}
    assert {p for r, p in pairs if r == "linearised"} == {*bench.PENALTIES}
    monkeypatch.setattr("sys.argv", ["training.py", "--regimes", "lora"])
    some = {*bench._pairs(bench._options())}
    assert ("ordinary", "none") in some  # what others are set beside
    assert {r for r, _ in some} == {"ordinary", "lora"}


@pytest.mark.parametrize("less", [["--quick"], ["--penalties", "small"]])
def test_less_than_all_is_not_kept_for_the_page(
    bench: Any, monkeypatch: pytest.MonkeyPatch, less: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["training.py", "--keep", *less])
    with pytest.raises(SystemExit):
        bench._options()


def test_every_step_of_the_case_is_timed(bench: Any, tmp_path: Path) -> None:
    model = bench.network(quick=True)
    penalties = ["none", "small", "tau-jp"]
    bench.keep_curvature(model, tmp_path, penalties)
    for penalty in penalties:
        arm = bench.Arm("linearised", penalty, 4)
        before, after = bench.train(model, arm, tmp_path, 2)
        assert before < after, penalty
