"""A storage of somebody's own: one class and one line of the table, nothing else."""

import sys
from pathlib import Path
from types import ModuleType
from typing import final

import pytest
from typing_extensions import override

from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.factors import Field, floats
from kfac_artifacts.format import load_artifact, read_header
from kfac_artifacts.format.coding import rounded
from kfac_artifacts.format.storage.base import Storage, TensorInfo, Tensors, Values
from kfac_artifacts.format.storage.floats import Floats
from kfac_artifacts.merge import merge
from kfac_artifacts.verify import verify
from tests.artifacts import plain, rich
from tests.commands import kfac
from tests.compress.small import same_tensors, total_error

NAME = "scaled-float16"
RECIPES = ["low-rank-3", "block-2-correlated", "prune-50%", "diagonal"]


@final
class Scaled(Storage):
    """Halves of size one, and a scale for each field: nothing is too large or small."""

    name = NAME

    @override
    def layout(self, field: Field) -> dict[str, TensorInfo]:
        halves = TensorInfo("float16", field.shape)
        return {"": halves, ".scale": TensorInfo("float32", (1,))}

    @override
    def write(self, values: Values, field: Field) -> Tensors:
        exact = floats(values).float()
        scale = exact.abs().max().clamp(min=1e-30).view(1)
        return {"": (exact / scale).half(), ".scale": scale}

    @override
    def read(self, tensors: Tensors, field: Field) -> Values:
        return tensors[""].float() * tensors[".scale"]


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("scaled")
    module.SCALED, module.FLOAT64 = Scaled(), Floats("float64")  # type: ignore[attr-defined]
    place = "format.storage.scaled"
    monkeypatch.setitem(sys.modules, f"kfac_artifacts.{place}", module)
    monkeypatch.setitem(STORAGES._places, NAME, f"{place}:SCALED")
    monkeypatch.setitem(STORAGES._places, "float64", f"{place}:FLOAT64")


@pytest.mark.parametrize("storage", [NAME, "float64"])
def test_an_artifact_survives_being_stored_so(storage: str, tmp_path: Path) -> None:
    before = rich()
    save_artifact(before, tmp_path / "a", storage=storage)
    after = load_artifact(tmp_path / "a")
    assert total_error(before, after) < 1e-3
    for name, factor in before.factors.items():
        assert same_tensors(after.factors[name], rounded(factor, STORAGES[storage]))
    header = read_header(tmp_path / "a")
    assert {info.storage.name for info in header.factors.values()} == {storage}
    tensors = sum(f.stat().st_size for f in (tmp_path / "a").glob("*.safetensors"))
    assert header.nbytes < tensors < header.nbytes + 8000
    assert all(finding.good for finding in verify(tmp_path / "a"))


@pytest.mark.parametrize("form", RECIPES)
def test_recipes_compress_into_it(form: str, tmp_path: Path) -> None:
    save_artifact(rich(), tmp_path / "a", recipe=f"{form}+{NAME}")
    found = load_artifact(tmp_path / "a")
    assert {found.factors.storage(name) for name in found.factors} == {NAME}
    assert all(finding.good for finding in verify(tmp_path / "a"))


def test_what_is_merged_stays_stored_so(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_artifact(plain(seed), tmp_path / f"{seed}", storage=NAME)
    merged = merge([load_artifact(tmp_path / f"{seed}") for seed in (1, 2)])
    save_artifact(merged, tmp_path / "total")
    found = load_artifact(tmp_path / "total")
    assert {found.factors.storage(name) for name in found.factors} == {NAME}


def test_the_command_shows_it(tmp_path: Path) -> None:
    save_artifact(rich(), tmp_path / "a", storage=NAME)
    done = kfac("inspect", tmp_path / "a")
    assert done.exit_code == 0
    assert NAME in done.output
