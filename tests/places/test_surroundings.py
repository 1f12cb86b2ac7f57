"""Mounts, rights and full disks: places are tried first, and nothing is left there."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places import check_free, new_directory, workspace
from tests.places.made import fill, read, write
from tests.places.surroundings import file_size_limit, mounted, somebody_else


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_mount_point_is_filled(tmp_path: Path, kind: str) -> None:
    how = ["-t", "tmpfs", "tmpfs"]
    if kind == "bind":
        (tmp_path / "bound").mkdir()
        how = ["--bind", str(tmp_path / "bound")]
    with mounted(tmp_path / "a name\\", *how) as place:
        before = sorted(p.name for p in tmp_path.iterdir())
        check_free(place)
        with new_directory(place) as directory:
            assert directory.parent == place  # all bytes go to what is mounted
            fill(directory, "new")
            (directory / "folder").mkdir()
            (directory / "folder" / "file").touch()
        assert (place / "folder" / "file").exists()
        with pytest.raises(PlaceError, match=r"folder.*would be lost"):
            write(place, "newer", replace=True)
        (place / "folder" / "file").unlink()
        (place / "folder").rmdir()
        with workspace(place) as room:
            assert room.parent == place
            write(place, "newer", replace=True)
        assert read(place) == "newer"
        assert sorted(p.name for p in place.iterdir()) == [
            "factors.safetensors",
            "kfac.json",
        ]
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_empty_directory_in_one_that_is_not_ours_is_filled(open_place: Path) -> None:
    place = open_place / "parent" / "a"
    place.mkdir(parents=True)
    place.chmod(0o777)
    place.parent.chmod(0o555)
    with somebody_else():
        check_free(place)
        write(place, "new")
        write(place, "newer", replace=True)
        assert read(place) == "newer"
    assert [p.name for p in place.parent.iterdir()] == ["a"]
    place.parent.chmod(0o755)


def test_a_directory_of_another_in_a_shared_folder_is_filled(open_place: Path) -> None:
    """As in /tmp, where nobody may rename what is not theirs."""
    if os.geteuid():
        pytest.skip("only root can make a directory of another user")
    open_place.chmod(0o1777)
    place = open_place / "a"
    place.mkdir()
    place.chmod(0o777)
    with somebody_else():
        write(place, "new")
        assert read(place) == "new"


def test_a_read_only_directory_is_not_written(open_place: Path) -> None:
    with somebody_else():
        write(open_place / "a", "old")
        (open_place / "a").chmod(0o555)
        with pytest.raises(PlaceError, match="read-only for this user"):
            check_free(open_place / "a", replace=True)
        (open_place / "a").chmod(0o755)


BAD_PLACES = {
    "file/a": "not a directory",
    "file/a/b": "not a directory",
    "n" * 300: "file name too long",
    f"new/{'n' * 300}/a": "file name too long",
    "/".join(["n" * 200] * 25): "file name too long",
    "a\0b": "null",
    "/proc/a": "no such file",
    "/proc/self/a/b": "no such file",
}


@pytest.mark.parametrize("place", BAD_PLACES)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PlaceError, match=BAD_PLACES[place]) as refused:
        check_free(place)
    assert len(str(refused.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_read_only_file_system_is_refused_before_the_work(tmp_path: Path) -> None:
    how = ["-o", "ro", "-t", "tmpfs", "tmpfs"]
    with mounted(tmp_path / "ro", *how) as place:
        for output in (place, place / "a", place / "b" / "a"):
            with pytest.raises(PlaceError, match="read-only"):
                check_free(output)


def test_the_longest_names_work(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        write(tmp_path / name, "old")
        write(tmp_path / name, "new", replace=True)
        assert read(tmp_path / name) == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_folders_that_were_made_are_taken_away_again(tmp_path: Path) -> None:
    check_free(tmp_path / "new" / "deep" / "a")
    assert list(tmp_path.iterdir()) == []

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(tmp_path / "new" / "deep" / "a", "x", meanwhile=fail)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "new" / "deep" / "a", "x")
    assert read(tmp_path / "new" / "deep" / "a") == "x"


def test_a_full_disk_in_a_library_that_wraps_it_is_an_error_of_the_system(
    tmp_path: Path,
) -> None:
    with (
        pytest.raises(OSError, match="File too large"),
        file_size_limit(1000),
        new_directory(tmp_path / "a") as directory,
    ):
        save_file({"x": torch.zeros(1000)}, directory / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_of_the_output_not_of_what_is_copied(
    tmp_path: Path,
) -> None:
    (tmp_path / "source").write_bytes(bytes(2000))
    with (
        pytest.raises(OSError, match="File too large") as failed,
        file_size_limit(1000),
        new_directory(tmp_path / "a") as directory,
    ):
        shutil.copyfile(tmp_path / "source", directory / "copy")
    assert failed.value.filename == str(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_disk_that_fills_while_a_mount_point_is_filled_leaves_what_was(
    tmp_path: Path,
) -> None:
    with mounted(tmp_path / "m", "-o", "size=64k", "-t", "tmpfs", "tmpfs") as place:
        write(place, "old")
        with (
            pytest.raises(OSError, match="No space left"),
            new_directory(place, replace=True) as directory,
        ):
            (directory / "kfac.json").write_bytes(bytes(10**6))
        assert read(place) == "old"
        assert len(list(place.iterdir())) == 2
