"""A plain directory as an embedded registry."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kfac_artifacts.errors import AddressError, FormatError, PlaceError, RegistryError
from kfac_artifacts.hub import pull, push
from kfac_artifacts.places import new_directory
from tests.hub.conftest import contents, write_artifact
from tests.places.made import when_opened


def test_what_is_pushed_is_pulled_bit_by_bit(artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "registry" / "org" / "mnli"
    pushed = push(artifact, str(place))
    assert pushed.changed
    pulled = pull(pushed.reference, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(place) == contents(artifact)
    assert pulled.reference == pushed.reference == f"{place}@{pushed.tag}"
    assert "# KFAC curvature" in (place / "README.md").read_text()


def test_an_unchanged_push_does_nothing(artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "registry"
    push(artifact, str(place))
    before = (place / "kfac.json").stat().st_ino
    assert not push(artifact, str(place)).changed
    assert (place / "kfac.json").stat().st_ino == before


def test_a_damaged_artifact_in_the_registry_is_repaired_by_a_push(
    artifact: Path, tmp_path: Path
) -> None:
    place = tmp_path / "registry"
    push(artifact, str(place))
    (place / "factors.safetensors").write_bytes(b"")
    assert push(artifact, str(place)).changed
    assert contents(place) == contents(artifact)


def test_a_new_artifact_replaces_the_old_one(artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "registry"
    old = push(write_artifact(tmp_path / "old", seed=1, shard_bytes=80), str(place))
    new = push(artifact, str(place))
    assert contents(place) == contents(artifact)
    pull(old.reference, tmp_path / "copy")  # its address goes on naming it
    assert contents(tmp_path / "copy") == contents(tmp_path / "old")
    push(tmp_path / "old", str(place))  # and back again: no version is lost
    for of, tag in ((artifact, new.tag), (tmp_path / "old", old.tag)):
        pull(f"{place}@{tag}", tmp_path / "copy", replace=True)
        assert contents(tmp_path / "copy") == contents(of)


def test_a_version_that_was_never_there_is_refused(
    artifact: Path, tmp_path: Path
) -> None:
    place = tmp_path / "registry"
    push(artifact, str(place))
    with pytest.raises(RegistryError, match="no such version is kept"):
        pull(f"{place}@kfac-0123456789ab", tmp_path / "copy")


def test_an_edited_card_is_kept(artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "registry"
    push(artifact, str(place))
    (place / "README.md").write_text("my words")
    pushed = push(write_artifact(tmp_path / "new", seed=1), str(place))
    assert pushed.card_kept
    assert (place / "README.md").read_text() == "my words"


def test_a_directory_with_other_things_is_not_replaced(
    artifact: Path, tmp_path: Path
) -> None:
    push(artifact, str(tmp_path / "registry" / "mnli"))
    with pytest.raises(PlaceError, match=r"holds other things.*mnli"):
        push(artifact, str(tmp_path / "registry"))
    assert contents(tmp_path / "registry" / "mnli") == contents(artifact)


def test_damage_in_the_registry_is_noticed(artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "registry"
    push(artifact, str(place))
    file = place / "factors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FormatError, match=r"factors\.safetensors in .*damaged"):
        pull(str(place), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_directory_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="on the Hub write hf://"):
        pull(str(tmp_path / "nothing"), tmp_path / "copy")


def test_a_directory_is_neither_private_nor_tagged(
    artifact: Path, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match="cannot be private or tagged"):
        push(artifact, str(tmp_path / "registry"), private=True)
    with pytest.raises(RegistryError, match="cannot be private or tagged"):
        push(artifact, str(tmp_path / "registry"), tag="v1")


def test_a_pinned_place_is_not_pushed_to(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="is pinned"):
        push(artifact, f"{tmp_path / 'registry'}@kfac-0123456789ab")


@pytest.fixture
def replaced(tmp_path: Path) -> tuple[Path, Path, Callable[[], None]]:
    """An artifact with a card, another one, and what replaces the one by the other."""
    place = tmp_path / "registry" / "a"
    push(write_artifact(tmp_path / "old", seed=1), str(place))
    new = write_artifact(tmp_path / "new", seed=2)

    def replace() -> None:
        with new_directory(place, replace=True) as directory:
            shutil.copytree(new, directory, dirs_exist_ok=True)

    return place, new, replace


@pytest.mark.parametrize("card", ["new card", None])
def test_a_card_is_never_pulled_with_the_manifest_of_another_artifact(
    replaced: tuple[Path, Path, Callable[[], None]], tmp_path: Path, card: str | None
) -> None:
    place, new, replace = replaced
    if card is not None:
        (new / "README.md").write_text(card)
    with when_opened(place / "README.md", replace):
        pull(str(place), tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(new)
    found = tmp_path / "copy" / "README.md"
    assert (found.read_text() if found.exists() else None) == card


def test_a_place_that_changes_while_a_push_looks_at_it_is_looked_at_again(
    replaced: tuple[Path, Path, Callable[[], None]], artifact: Path
) -> None:
    place, _, replace = replaced
    with when_opened(place / "README.md", replace):  # by something without a card
        assert push(artifact, str(place)).changed
    assert contents(place) == contents(artifact)
