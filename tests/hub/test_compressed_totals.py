"""Totals that are kept compressed as well."""

import shutil
from pathlib import Path

import pytest

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import FormatError, RegistryError, SettingsError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import Hub
from kfac_artifacts.registry import (
    Offer,
    Selection,
    add,
    check,
    compress_total,
    open_registry,
    pull_locked,
    read_registry,
    remove,
    take,
    withdraw,
    write_lock,
)
from kfac_artifacts.registry.entries import Change
from tests.commands import good
from tests.hub.conftest import Made, contents

RECIPES = ("block-2", "int8")
PLACES = ["hf://owner/registry", "directory"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path, made: Made, hub: Hub) -> str:
    named = request.param
    root = str(tmp_path / named) if named == "directory" else named
    add(open_registry(root, hub=hub), Offer(made(0)))
    compress_total(open_registry(root, hub=hub), RECIPES)
    return root


def wrong(place: str, hub: Hub) -> list[str]:
    return list(check(*read_registry(place, hub=hub)))


def test_they_follow_every_change(
    place: str, hub: Hub, made: Made, tmp_path: Path
) -> None:
    registry = open_registry(place, hub=hub)
    for number in (1, 2):
        add(registry, Offer(made(number)))
    remove(registry, "data1")
    parts = made(0), made(2)
    for recipe in RECIPES:
        chosen = Selection(recipe=recipe)
        taken = take(place, tmp_path / recipe, chosen, hub=hub)
        good("merge", *parts, "-o", tmp_path / "total", "--force")
        expected = tmp_path / f"{recipe} of it"
        save_artifact(load_artifact(tmp_path / "total"), expected, recipe=recipe)
        assert taken.pulled.digest == load_artifact(expected).digest
    assert wrong(place, hub) == []
    state = registry.state()
    assert state.index.artifacts == 3 + 1 + len(RECIPES)
    (name,) = state.index.collections
    assert len(registry.holds(f"{name}/total")) == 1 + len(RECIPES)


def test_by_no_recipe_they_go_again(place: str, hub: Hub) -> None:
    registry = open_registry(place, hub=hub)
    assert not compress_total(registry, RECIPES).changed
    assert compress_total(registry, ()).changed
    (name,) = registry.state().index.collections
    assert len(registry.holds(f"{name}/total")) == 1
    assert wrong(place, hub) == []


def test_a_lock_of_one_is_kept_whatever_changes(
    place: str, hub: Hub, made: Made, tmp_path: Path
) -> None:
    """Of a directory, which has no old totals, it is made of the parts once more."""
    registry, before = open_registry(place, hub=hub), {}
    for number in range(3):  # the total of one artifact, too
        name = f"{number} others"
        taken = take(place, tmp_path / name, Selection(recipe="block-2"), hub=hub)
        write_lock(tmp_path / "kfac.lock", taken)
        before[name] = contents(tmp_path / name)
        add(registry, Offer(made(number + 1)))
    for name in before:
        shutil.rmtree(tmp_path / name)
    pull_locked(tmp_path / "kfac.lock", hub=hub)
    assert {name: contents(tmp_path / name) for name in before} == before


def test_a_lock_of_what_was_withdrawn_says_so(
    hub: Hub, made: Made, tmp_path: Path
) -> None:
    place, lock = tmp_path / "registry", tmp_path / "kfac.lock"
    for number in range(2):
        add(open_registry(place), Offer(made(number)))
    write_lock(lock, take(place, tmp_path / "total"))
    shutil.rmtree(tmp_path / "total")
    withdraw(open_registry(place), "data0")
    with pytest.raises(RegistryError, match=r"tasks/data0/kfac-\w+ was withdrawn"):
        pull_locked(lock, hub=hub)


def test_check_refuses_another_artifact_as_a_compressed_total(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody makes one whose digest the index names."""
    place, other = tmp_path / "registry", load_artifact(made(1))

    def save(artifact: object, path: Path, **settings: object) -> None:
        save_artifact(other if "recipe" in settings else artifact, path, **settings)

    add(open_registry(place), Offer(made(0)))
    monkeypatch.setattr("kfac_artifacts.registry.changing.save_artifact", save)
    compress_total(open_registry(place), ["block-2"])
    assert "is not the total compressed by block-2" in wrong(str(place), Hub())[0]


def test_a_recipe_that_is_none_is_refused(tmp_path: Path, made: Made) -> None:
    add(open_registry(tmp_path / "registry"), Offer(made(0)))
    with pytest.raises(SettingsError, match="recipe"):
        compress_total(open_registry(tmp_path / "registry"), ["sideways"])


@pytest.mark.parametrize(
    "recipes", [["../x"], ["block-2", "block-2"], "block-2", [["int8"]]]
)
def test_recipes_in_a_log_are_checked(
    tmp_path: Path, made: Made, recipes: object
) -> None:
    add(open_registry(tmp_path / "registry"), Offer(made(0)))
    (change,) = open_registry(tmp_path / "registry").state().index.changes
    value = {
        **{key: change.to_json()[key] for key in ("name", "date", "collection")},
        "action": "compress",
        "recipes": recipes,
    }
    with pytest.raises(FormatError):
        Change.from_json(value, "log")
    assert Change.from_json({**value, "recipes": ["int8"]}, "log").recipes == ("int8",)
