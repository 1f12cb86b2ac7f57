"""Places by any spelling: an output is no input, and links stay what they are."""

from pathlib import Path

import pytest

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places import check_free
from tests.places.made import read, write

SPELLINGS = ["x", "./x", "y/../x", "link", "folder/../link", "x/", "far/x"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("given", SPELLINGS)
def test_an_output_that_is_an_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "y").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "far").symlink_to(tmp_path)
    write(tmp_path / "x", "input")
    with pytest.raises(PlaceError, match="is the input"):
        check_free(spelling, replace=True, inputs=["org/model", given])
    for inside in ("new", "new/deep", "..") if spelling.endswith("x") else ():
        match = "holds the input" if inside == ".." else "lies in the input"
        with pytest.raises(PlaceError, match=match):
            check_free(f"{spelling}/{inside}", replace=True, inputs=[given])
    assert read(tmp_path / "x") == "input"


def test_an_output_in_which_links_of_an_input_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "blobs", "x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").symlink_to("../blobs/factors.safetensors")
    with pytest.raises(PlaceError, match="holds the input"):
        check_free(tmp_path / "blobs", replace=True, inputs=[tmp_path / "model"])


def test_an_output_beside_an_input_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").touch()
    (tmp_path / "data").mkdir()
    check_free("out", inputs=["data.csv", "data", "org/name", "org/name@main", "\0"])
    check_free("data2", inputs=["data", "dat"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.csv"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_stays(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    if there:
        write(tmp_path / "real" / "a", "old")
    (tmp_path / "link").symlink_to("real/a")
    write(tmp_path / "link", "new", replace=True)
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "real" / "a") == "new"
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["a"]


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(PlaceError, match="no directory"):
        check_free(tmp_path / "a", replace=True)


@pytest.mark.parametrize("spelling", [".", "./", "", "../a", "../a/."])
def test_the_working_directory_is_filled_and_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    check_free(spelling)
    write(Path(spelling), "new")
    assert read(Path.cwd()) == "new"
    assert (tmp_path / "a").samefile(".")
    write(Path(spelling), "newer", replace=True)
    assert read(tmp_path / "a") == "newer"
    assert (tmp_path / "a").samefile(".")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
