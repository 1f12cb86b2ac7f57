"""One door for saving: what the command does is what the library does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kfac_artifacts.artifact import Artifact, HeldFactors
from kfac_artifacts.compress import DEFAULT_RECIPE, Recipe, save_artifact
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import Dense, Factor
from kfac_artifacts.format import load_artifact, write_artifact
from kfac_artifacts.verify import verify
from tests.artifacts import contents, plain, rich


def rank_one(dim: int, seed: int) -> Factor:
    """A matrix that rounding to int8 makes indefinite."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(dim, generator=generator)
    return Dense(torch.outer(x, x))


def frail() -> Artifact:
    artifact = plain()
    factors = {
        name: rank_one(factor.dim, seed)
        for seed, (name, factor) in enumerate(artifact.factors.items())
    }
    return replace(artifact, factors=HeldFactors(factors))


def test_storing_as_int8_lifts_and_tells_its_loss(tmp_path: Path) -> None:
    write_artifact(frail(), tmp_path / "raw", storage="int8")
    save_artifact(frail(), tmp_path / "a", storage="int8")
    raw, found = load_artifact(tmp_path / "raw"), load_artifact(tmp_path / "a")
    assert not raw.provenance.losses
    assert set(found.provenance.losses) == set(found.factors)
    for name, factor in found.factors.items():
        low, high = raw.factors[name].eigenvalue_range()
        assert low < -1e-4 * high
        low, high = factor.eigenvalue_range()
        assert low >= -1e-5 * high
        assert found.provenance.losses[name].lift > 0
    assert all(finding.good for finding in verify(tmp_path / "a"))


def test_storage_and_recipe_int8_are_one_room(tmp_path: Path) -> None:
    save_artifact(rich(), tmp_path / "a", storage="int8")
    save_artifact(rich(), tmp_path / "b", recipe="int8")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_is_int8_already_is_written_again_as_it_is(tmp_path: Path) -> None:
    save_artifact(frail(), tmp_path / "a", storage="int8")
    save_artifact(load_artifact(tmp_path / "a"), tmp_path / "b")
    one, two = load_artifact(tmp_path / "a"), load_artifact(tmp_path / "b")
    assert one.provenance.losses == two.provenance.losses
    tensors = "factors.safetensors"
    assert contents(tmp_path / "a")[tensors] == contents(tmp_path / "b")[tensors]


@pytest.mark.parametrize("storage", [None, "float32", "symmetric-bfloat16"])
def test_other_storages_are_no_compression(tmp_path: Path, storage: str | None) -> None:
    save_artifact(rich(), tmp_path / "a", storage=storage)
    write_artifact(rich(), tmp_path / "b", storage=storage)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_recipe_takes_no_storage(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give no storage"):
        save_artifact(rich(), tmp_path / "a", storage="int8", recipe="small")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("how", [{"storage": "int4"}, {"recipe": "int4"}])
def test_what_there_is_not_is_refused_before_anything_is_written(
    tmp_path: Path, how: dict[str, str]
) -> None:
    with pytest.raises(SettingsError, match="there is no"):
        save_artifact(rich(), tmp_path / "a", **how)
    assert list(tmp_path.iterdir()) == []


def test_the_default_is_a_recipe() -> None:
    assert Recipe.parse(DEFAULT_RECIPE)
