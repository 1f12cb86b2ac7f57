"""The suites of the benchmarks can be read, and keep what was run before."""

import importlib
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kfac_artifacts.suite import Suite, SuiteResults, read_suite
from kfac_artifacts.suite.results import Row, Spread

ROOT = Path(__file__).parents[2]
DECLARED = sorted((ROOT / "benchmarks" / "suites").glob("*.toml"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("suite")


@pytest.mark.parametrize(
    "path",
    [path for path in DECLARED if path.stem != "ablations"],
    ids=lambda path: path.stem,
)
def test_a_declared_suite_compares_tak_with_what_the_paper_does(path: Path) -> None:
    suite = read_suite(path)
    assert {"linear", "kfac", "nearest", "ekfac", "tau-jp", "ordinary"} <= {
        arm.name for arm in suite.arms
    }
    assert len(suite.seeds) >= 3


def test_ablations_differ_from_tak_in_one_choice_each_at_the_same_setting() -> None:
    suite = read_suite(ROOT / "benchmarks" / "suites" / "ablations.toml")
    own = {arm.name: arm for arm in suite.arms if arm.name.startswith("kfac")}
    assert {(arm.rates, arm.weights) for arm in own.values()} == {((1e-3,), (1000,))}
    usual = own.pop("kfac")
    for arm in own.values():
        other = [arm.curvature != usual.curvature, arm.every != usual.every]
        assert sum([*other, arm.penalty != usual.penalty]) == 1, arm.name
    assert len(suite.seeds) >= 3


def test_every_suite_that_the_command_prepares_is_declared(bench: ModuleType) -> None:
    assert {*bench.PREPARED} <= {path.stem for path in DECLARED}


def test_parts_of_a_set_of_images_have_no_image_in_common(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    data = importlib.import_module("suite_data")
    parts = [range(*data._of_each(part, 10)) for part in data.MOST]
    assert not any({*a} & {*b} for a, b in combinations(parts, 2))
    assert not {*data._numbers("validation")} & {*data._numbers("test")}


def _results(suite: Suite, arm: str, accuracy: float) -> SuiteResults:
    score = Spread.of([accuracy])
    row = Row(
        arm=arm,
        merging="sum",
        mode="linear",
        chosen=False,
        rate=1e-4,
        weight=None,
        alphas=(1.0,),
        scores={"absolute": score, "normalised": score, "individual": score},
        tasks={},
        pretrained=0.5,
    )
    arms = tuple(a for a in suite.arms if a.name == arm)
    about = json.loads(json.dumps(_declared(replace(suite, arms=arms))))
    return SuiteResults(about, 0.5, (row,), {arm: []}, seconds=1.0)


def _declared(suite: Suite) -> dict[str, object]:
    return {"name": suite.name, "arms": [{"name": arm.name} for arm in suite.arms]}


def test_rows_of_arms_that_were_run_before_stay_and_those_run_again_are_replaced(
    bench: ModuleType, tmp_path: Path
) -> None:
    suite, kept = read_suite(DECLARED[0]), tmp_path / "results.json"
    for arm, accuracy in (("linear", 0.5), ("kfac", 0.6), ("linear", 0.7)):
        bench._keep(kept, _results(suite, arm, accuracy), tmp_path)
    found = json.loads(kept.read_text())
    scores = {r["arm"]: r["scores"]["absolute"]["mean"] for r in found["rows"]}
    assert scores == {"linear": 0.7, "kfac": 0.6}
    assert found["seconds"] == 3
    other = replace(_results(suite, "kfac", 0.1), suite={"name": "other", "arms": []})
    bench._keep(kept, other, tmp_path)
    rows = json.loads(kept.read_text())["rows"]
    assert [row["arm"] for row in rows] == ["kfac"]


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        ([{"name": "a", "draws": 1}, {"name": "b", "draws": 1}], True),
        ([{"name": "a", "draws": 2}], False),  # the old rows are of another a
    ],
)
def test_rows_stand_beside_those_of_the_same_curvatures(
    bench: ModuleType, now: list[Any], kept: bool
) -> None:
    before = {"name": "s", "arms": ["x"], "curvatures": [{"name": "a", "draws": 1}]}
    assert bench._alike(before, before | {"arms": [], "curvatures": now}) == kept
    assert not bench._alike(before, before | {"name": "t"})


@pytest.fixture
def results_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("results_page")


def test_the_page_of_results_is_what_was_measured(results_page: ModuleType) -> None:
    page = results_page.page(results_page.Measured())
    assert page == results_page.PAGE.read_text("utf-8")


def test_every_row_says_what_the_paper_has_and_what_we_have_or_why_not(
    results_page: ModuleType, tmp_path: Path
) -> None:
    suite, kept = read_suite(DECLARED[0]), tmp_path / "suite-text.json"
    for row in results_page.rows():
        assert row["paper"]
        assert hasattr(results_page.Measured, row.get("ours", "page")) or row["why"]
    results = _results(suite, "linear", 0.5)
    about = {**results.to_json(), "versions": {}}
    about["suite"] = {
        "name": "texts",
        "tasks": [{}],
        "seeds": [0],
        "training": {},
        "arms": [{"name": "linear", "regime": "linearised"}],
    }
    kept.write_text(json.dumps(about))
    page = results_page.page(results_page.Measured(tmp_path))
    assert "texts: pretrained 50.0: linear 50.0/50.0" in page
    assert "| linear | 0.0001 | 50.0/50.0 | - | - | - |" in page


def test_a_setting_at_the_edge_of_what_was_tried_has_a_star(
    results_page: ModuleType,
) -> None:
    assert results_page._edge(1e-3, {1e-4, 1e-3}) == "*"
    assert results_page._edge(1e-4, {1e-5, 1e-4, 1e-3}) == ""
    assert results_page._edge(1e-4, {1e-4}) == ""
