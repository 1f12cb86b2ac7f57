"""The benchmark of training steps: its ratios, and that its case is trained."""

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("training")


def test_ratios_are_to_no_penalty_and_to_ordinary_training(bench: Any) -> None:
    arms = [bench.Arm(r, p, 8) for r in bench.REGIMES for p in (bench.NONE, "small")]
    seconds = dict(zip(arms, (1.0, 1.5, 2.0, 2.5), strict=True))
    held = dict(zip(arms, (100, 110, 200, 210), strict=True))
    rows = bench._rows(arms, seconds, held)
    assert [row["time_vs_ordinary"] for row in rows] == [1.0, 1.5, 2.0, 2.5]
    assert [row["memory_vs_free"] for row in rows] == [1.0, 1.1, 1.0, 1.05]
    found = bench._summary(rows)
    assert found["linearised_vs_ordinary"] == 2.0
    assert found["penalty_time_overhead"] == 0.25
    assert found["penalty_memory_overhead"] == pytest.approx(0.05)


def test_every_step_of_the_case_is_timed(bench: Any, tmp_path: Path) -> None:
    model = bench.network(quick=True)
    bench.keep_curvature(model, tmp_path, ["small"])
    arm = bench.Arm("linearised", "small", 4)
    before, after = bench.train(model, arm, tmp_path, 2)
    assert before < after
