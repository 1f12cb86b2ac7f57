"""A form of somebody's own: one class and one line of the table, nothing else."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar, final

import pytest
import torch
from typing_extensions import override

from kfac_artifacts.choices import FORMS
from kfac_artifacts.compress import Recipe, save_artifact
from kfac_artifacts.compress.forms.base import Form
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import Diagonal, Factor
from kfac_artifacts.format import load_artifact
from kfac_artifacts.verify import verify
from tests.artifacts import plain, rich, same
from tests.commands import bad, good
from tests.compress.small import on_disk

NAME = "isotropic"


@final
@dataclass(frozen=True)
class Isotropic(Form):
    """The trace alone: no direction is told from another."""

    names: ClassVar[str] = NAME

    @classmethod
    @override
    def parse(cls, name: str) -> "Isotropic | None":
        return cls() if name == NAME else None

    @property
    @override
    def name(self) -> str:
        return NAME

    @override
    def apply(self, original: Original) -> Factor:
        diagonal = original.matrix.diagonal()
        return Diagonal(diagonal.mean().expand(len(diagonal)).clone())


@pytest.fixture
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(NAME)
    vars(module)["Isotropic"] = Isotropic
    place = f"compress.forms.{NAME}"
    monkeypatch.setitem(sys.modules, f"kfac_artifacts.{place}", module)
    monkeypatch.setitem(FORMS._places, NAME, f"{place}:Isotropic")


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize("storage", ["", "+int8", "+bfloat16"])
def test_every_factor_is_brought_into_it(storage: str, tmp_path: Path) -> None:
    before = on_disk(rich(), tmp_path / "before")
    save_artifact(before, tmp_path / "after", recipe=NAME + storage)
    after = load_artifact(tmp_path / "after")
    for name, factor in before.factors.items():
        found = after.factors[name]
        assert isinstance(found, Diagonal)
        wanted = factor.diagonal()
        if not isinstance(factor, Diagonal):  # one that is diagonal already stays
            wanted = wanted.mean().expand(factor.dim)
        bound = 1e-2 * float(wanted.abs().max())
        torch.testing.assert_close(found.diagonal(), wanted, rtol=1e-2, atol=bound)
        assert name in after.provenance.losses or isinstance(factor, Diagonal)
    assert all(finding.good for finding in verify(tmp_path / "after"))


@pytest.mark.usefixtures("_table")
def test_the_command_compresses_into_it(tmp_path: Path) -> None:
    save_artifact(plain(), tmp_path / "a")
    words = ("--recipe", f"{NAME}+int8", "--no-fitness")  # as in the library
    good("compress", tmp_path / "a", "-o", tmp_path / "b", *words)
    save_artifact(load_artifact(tmp_path / "a"), tmp_path / "c", recipe=f"{NAME}+int8")
    assert same(load_artifact(tmp_path / "b"), load_artifact(tmp_path / "c"))


@pytest.mark.usefixtures("_table")
def test_its_recipe_is_named_as_it_is_written() -> None:
    for name in (NAME, f"{NAME}+int8"):
        recipe = Recipe.parse(name)
        assert isinstance(recipe.form, Isotropic)
        assert recipe.name == name


def test_without_its_line_in_the_table_it_is_unknown(tmp_path: Path) -> None:
    assert NAME not in FORMS
    with pytest.raises(SettingsError, match=NAME):
        Recipe.parse(NAME)
    save_artifact(plain(), tmp_path / "a")
    words = ("compress", tmp_path / "a", "-o", tmp_path / "b", "--recipe", NAME)
    assert NAME in bad(*words)
