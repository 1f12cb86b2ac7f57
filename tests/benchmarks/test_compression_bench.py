"""The benchmark of compression counts bytes and points as it says."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.format import dense_bytes, load_artifact
from tests.artifacts import artifact

ROOT = Path(__file__).parents[2]
MATRICES, VECTOR = (5, 3, 4, 4), 7  # of tests.artifacts


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Import one of the benchmark's modules."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return lambda name: importlib.import_module(f"compressing.{name}")


@pytest.fixture
def rows(bench: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Three seeds of the ends and of two recipes, with sizes."""
    accuracies = {
        "float32": [_seed(80, 78), _seed(82, 78), _seed(84, 78)],
        "none": [_seed(70, 10)] * 3,
        "int8": [_seed(80, 77), _seed(82, 77), _seed(84, 77)],
        "low-rank-8+int8": [_seed(81, 70), _seed(81, 70), _seed(83.4, 70)],
    }
    found = bench("summary").summarise(accuracies)
    for recipe, share in (("float32", 0.5), ("int8", 0.13), ("low-rank-8+int8", 0.01)):
        found[recipe]["bytes_share"] = share
    return found


def _seed(linear: float, plain: int) -> dict[str, Any]:
    """Accuracies whose mean over two tasks is the one given."""
    return {
        "linear": {"a": linear - 2, "b": linear + 2},
        "plain": {"a": plain + 1, "b": plain - 1},
    }


def test_shares_are_of_dense_matrices_and_of_vectors_for_diagonal_factors(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    sizes = bench("sizes")
    save_artifact(artifact(), tmp_path / "whole", storage="symmetric-float32")
    whole = load_artifact(tmp_path / "whole", verify=False)
    dense = 4 * (sum(d * d for d in MATRICES) + VECTOR)
    assert dense_bytes(whole) == dense
    triangles = 4 * (sum(d * (d + 1) // 2 for d in MATRICES) + VECTOR)
    assert sizes.tensor_bytes(whole) == triangles
    save_artifact(whole, tmp_path / "diagonal", recipe="diagonal+bfloat16")
    small = load_artifact(tmp_path / "diagonal", verify=False)
    assert sizes.tensor_bytes(small) == 2 * (sum(MATRICES) + VECTOR)
    files = [file.read_bytes() for file in (tmp_path / "diagonal").iterdir()]
    assert sizes.bytes_on_disk(tmp_path / "diagonal") == sum(map(len, files))


@pytest.mark.parametrize(
    ("recipe", "share"),
    [("budget-1.5%", 0.015), ("budget-0.5%", 0.005), ("int8", None)],
)
def test_a_budget_is_a_share_in_percent(
    bench: Callable[..., Any], recipe: str, share: float | None
) -> None:
    assert bench("recipes").budget(recipe) == share


def test_points_lost_are_those_of_the_means_over_tasks_and_seeds(
    rows: dict[str, dict[str, Any]],
) -> None:
    low_rank = rows["low-rank-8+int8"]
    assert low_rank["accuracy"]["linear"]["mean"] == pytest.approx(81.8)
    assert low_rank["points_lost"] == pytest.approx({"linear": 0.2, "plain": 8})
    assert rows["int8"]["points_lost"] == pytest.approx({"linear": 0, "plain": 1})
    assert rows["none"]["points_lost"] == pytest.approx({"linear": 12, "plain": 68})
    assert rows["float32"]["accuracy"]["linear"]["deviation"] == pytest.approx(2)


def test_one_seed_has_no_deviation(bench: Callable[..., Any]) -> None:
    found = bench("summary").summarise({"float32": [_seed(80, 70)]})
    assert found["float32"]["accuracy"]["linear"]["deviation"] is None


def test_the_best_is_the_smallest_of_those_that_lose_next_to_nothing(
    bench: Callable[..., Any], rows: dict[str, dict[str, Any]]
) -> None:
    best = bench("summary").best
    assert best(rows.values())["recipe"] == "low-rank-8+int8"
    rows["low-rank-8+int8"]["points_lost"]["linear"] = 0.31
    assert best(rows.values())["recipe"] == "int8"


def test_if_all_lose_the_best_loses_least(
    bench: Callable[..., Any], rows: dict[str, dict[str, Any]]
) -> None:
    rows["int8"]["points_lost"]["linear"] = 0.7
    rows["low-rank-8+int8"]["points_lost"]["linear"] = 0.5
    assert bench("summary").best(rows.values())["recipe"] == "low-rank-8+int8"


def test_the_table_goes_from_large_to_small_and_leaves_out_what_was_not_measured(
    bench: Callable[..., Any], rows: dict[str, dict[str, Any]]
) -> None:
    summary = bench("summary")
    lines = summary.table(rows.values(), summary.COLUMNS)
    names = [line.split()[0] for line in lines]
    assert names == ["recipe", "float32", "int8", "low-rank-8+int8", "none"]
    small = lines[3].split()
    assert small[1:8] == ["ours", "1.00", "-", "81.8", "±", "1.4", "0.2"]
    assert small[-4:] == ["-", "-", "-", "-"]
    assert lines[2].split()[1] == "paper"


def test_the_figure_shows_every_recipe(
    bench: Callable[..., Any], rows: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    for recipe, ratio in (("float32", 1.0), ("int8", 1.001), ("low-rank-8+int8", 1.2)):
        rows[recipe]["penalty_ratio"] = ratio
    figure = bench("figure")
    figure.draw({"arms": list(rows.values())}, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        colours = {rgb for _, rgb in picture.convert("RGB").getcolors(2**24)}
    for colour in figure.COLOURS.values():
        assert tuple(bytes.fromhex(colour[1:])) in colours


def test_names_are_moved_apart_as_little_as_it_takes(bench: Callable[..., Any]) -> None:
    spread = bench("figure").spread
    assert spread([0.1, 0.5, 0.9], 0.2) == [0.1, 0.5, 0.9]
    assert spread([0.1, 0.5, 0.5, 0.55], 0.1) == pytest.approx(
        [0.1, 0.516667 - 0.1, 0.516667, 0.616667], abs=1e-5
    )
    assert spread([0.25, 0.4, 0.4], 0.125) == pytest.approx([0.225, 0.35, 0.475])
