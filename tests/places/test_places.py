"""Directories: tried first, whole or not at all, and nothing of others is lost."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places import (
    check_file_free,
    check_free,
    contents_of,
    exchange,
    new_directory,
    recover,
    workspace,
)
from tests.places.made import file_size_limit, fill, read, tree, write

MARKER = '{"format": "kfac-applied-model", "files": ["config.json", "1_P/config.json"]}'
TAU = '{"format": "kfac-task-vector"}'
OURS = {
    "artifact": {"kfac.json": '{"format": "kfac-artifact"}', "README.md": "edited"},
    "shards": {
        "kfac.json": '{"format": "kfac-artifact", "version": 9}',
        "factors-00001-of-00002.safetensors": "",
        "factors.safetensors.index.json": "",
        "pulled.json": "",
    },
    "task vector": {"task_vector.json": TAU, "task_vector.safetensors": ""},
    "model": {"kfac_apply.json": MARKER, "config.json": "", "1_P/config.json": ""},
    "empty": {},
    "lost+found": {"lost+found/": ""},
}
FOREIGN = {
    "notes": {"notes.txt": "mine"},
    "photos": {"cats/1.png": "", "dogs/2.png": ""},
    "model of another": {"config.json": "{}", "model.safetensors": ""},
    "artifact and notes": {"kfac.json": '{"format": "kfac-artifact"}', "n.txt": ""},
    "artifact and folder": {"kfac.json": '{"format": "kfac-artifact"}', "d/n.txt": ""},
    "folder named so": {"kfac.json": '{"format": "kfac-artifact"}', "README.md/x": ""},
    "json of another": {"kfac.json": '{"format": "other"}'},
    "no json": {"kfac.json": "[[["},
    "deep json": {"kfac.json": "[" * 100_000},
    "a list": {"kfac.json": '["format"]'},
    "factors alone": {"factors.safetensors": ""},
    "model and notes": {"kfac_apply.json": MARKER, "1_P/n.txt": "", "config.json": ""},
    "marker alone": {"kfac_apply.json": '{"files": ["a.txt"]}', "a.txt": ""},
    "marker with no list": {
        "kfac_apply.json": '{"format": "kfac-applied-model", "files": 3}',
        "a.txt": "",
    },
    "registry": {"mnli/kfac.json": '{"format": "kfac-artifact"}'},
    "hidden": {".git/config": ""},
    "link": {"kfac.json": '{"format": "kfac-artifact"}', "link->": "/etc"},
    "linked manifest": {"kfac.json->": "blob", "blob": '{"format": "kfac-artifact"}'},
    "rescued by fsck": {"lost+found/#12": "mine"},
    "file called so": {
        ".kfac.ready": "mine",
        "kfac.json": '{"format": "kfac-artifact"}',
    },
    "link called so": {".kfac.filling->": "/etc"},
    "lock that is a link": {".kfac.lock->": "/etc/hosts"},
}


def lay(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir()
    for name, content in files.items():
        file = directory / name.rstrip("/").removesuffix("->")
        file.parent.mkdir(exist_ok=True, parents=True)
        if name.endswith("/"):
            file.mkdir()
        elif name.endswith("->"):
            file.symlink_to(content)
        else:
            file.write_text(content)
    return directory


@pytest.mark.parametrize("kind", OURS)
def test_what_was_written_here_is_replaced_by_force(tmp_path: Path, kind: str) -> None:
    place = lay(tmp_path / "a", OURS[kind])
    if kind not in {"empty", "lost+found"}:
        with pytest.raises(PlaceError, match=r"exists already.*--force"):
            check_free(place)
    write(place, "new", replace=True)
    assert (place / "kfac.json").is_file()
    if kind != "lost+found":
        assert read(place) == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("replace", [False, True])
def test_what_others_wrote_is_never_replaced(
    tmp_path: Path, kind: str, replace: bool
) -> None:
    place = lay(tmp_path / "a", FOREIGN[kind])
    before = tree(place)
    for refuse in (check_free, write_new):
        with pytest.raises(PlaceError, match="would be lost"):
            refuse(place, replace=replace)
    assert tree(place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def write_new(place: Path, *, replace: bool) -> None:
    write(place, "new", replace=replace)


def test_the_message_names_what_would_be_lost_in_plain_letters(tmp_path: Path) -> None:
    place = lay(tmp_path / "a", {"kfac.json": '{"format": "kfac-artifact"}'})
    for name in ("\x1b[31mred", "b", "c", "d"):
        (place / name).touch()
    with pytest.raises(PlaceError) as refused:
        check_free(place, replace=True)
    assert r"\x1b[31mred, b, c and 1 more" in str(refused.value)


@pytest.mark.parametrize("way", ["exchange", "two steps", "filled"])
def test_what_somebody_puts_there_during_the_work_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    place = tmp_path / "a"
    write(place, "old")
    if way == "two steps":
        monkeypatch.setattr(exchange, "_call", lambda *_: errno.ENOSYS)
    if way == "filled":
        monkeypatch.chdir(place)

    def work() -> None:
        (place / "thesis.tex").write_text("years")

    with pytest.raises(PlaceError, match="would be lost"):
        write(place, "new", replace=True, meanwhile=work)
    assert (place / "thesis.tex").read_text() == "years"
    assert (place / "factors.safetensors").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("two_steps", [False, True])
def test_even_in_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_steps: bool
) -> None:
    """After the last check, when the directories are just changing places."""
    place = tmp_path / "a"
    write(place, "old")
    call = exchange._call
    made: list[int] = []

    def late(one: bytes, other: bytes) -> int:
        if not made:
            made.append((place / "thesis.tex").write_text("years"))
        return errno.ENOSYS if two_steps else call(one, other)

    monkeypatch.setattr(exchange, "_call", late)
    with pytest.raises(PlaceError, match=r"thesis\.tex.* would be lost"):
        write(place, "new", replace=True)
    assert (place / "thesis.tex").read_text() == "years"
    assert (place / "factors.safetensors").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


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


@contextmanager
def mounted(place: Path, *how: str) -> Iterator[Path]:
    """Mount something there, if this user may."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *how, place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


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


@contextmanager
def somebody_else() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that anybody may reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


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


def test_what_a_living_run_has_made_is_not_cleared(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from kfac_artifacts.places import new_directory
from tests.places.made import fill
with new_directory(Path(sys.argv[1]), replace=True) as directory:
    fill(directory, "living")
    print("ready", flush=True)
    sys.stdin.read()
"""
    place = tmp_path / "a"
    with subprocess.Popen(
        [sys.executable, "-c", script, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        write(place, "first")
        assert len(list(tmp_path.iterdir())) == 2
        other.stdin.close()
        assert other.wait(60) == 0
    assert read(place) == "living"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_resembles_a_leftover_is_not_cleared(tmp_path: Path) -> None:
    names = (".a.notes", ".a.old.backup01", ".a.new.12345678", ".a.x.12345678.kfac")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    write(tmp_path / "a", "x")
    assert {p.name for p in tmp_path.iterdir()} == {"a", *names}


def test_the_first_of_two_runs_wins(tmp_path: Path) -> None:
    def other() -> None:
        write(tmp_path / "a", "first")

    with pytest.raises(PlaceError, match="exists already"):
        write(tmp_path / "a", "second", meanwhile=other)
    assert read(tmp_path / "a") == "first"


def test_what_is_to_be_done_last_may_refuse(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")

    def refuse(directory: Path) -> None:
        assert read(directory) == "new"
        assert read(tmp_path / "a") == "old"
        raise PlaceError("no")

    with pytest.raises(PlaceError, match="no"):
        write(tmp_path / "a", "new", replace=True, before=refuse)
    assert read(tmp_path / "a") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_nothing_is_recovered_where_nothing_is(tmp_path: Path) -> None:
    recover(tmp_path / "a")
    recover(tmp_path / "b" / "a")
    assert list(tmp_path.iterdir()) == []


def test_contents_are_listed_with_links_and_without_what_is_hidden(
    tmp_path: Path,
) -> None:
    lay(tmp_path / "a", {"x": "", "d/y": "", "l->": "/etc", ".kfac.lock": ""})
    assert contents_of(tmp_path / "a") == ["d/y", "l", "x"]


def test_a_file_of_another_is_not_replaced(tmp_path: Path) -> None:
    def check(name: str, *inputs: str) -> None:
        inside = [tmp_path / i for i in inputs]
        check_file_free(tmp_path / name, inputs=inside, is_ours=lambda b: b == b"ours")

    (tmp_path / "ours.png").write_bytes(b"ours")
    (tmp_path / "photo.png").write_bytes(b"photo")
    (tmp_path / "photos").mkdir()
    check("new.png")
    check("ours.png")
    for name, inputs, message in (
        ("photo.png", (), "did not write it"),
        ("photos", (), "no file"),
        ("photos/new.png", ("photos",), "lies in the input"),
        ("ours.png", ("ours.png",), "is the input"),
        ("nowhere/new.png", (), "no such file"),
    ):
        with pytest.raises(PlaceError, match=message):
            check(name, *inputs)
    assert len(list(tmp_path.iterdir())) == 3


FORGED = {
    "away": {".kfac.ready/.kfac.gone": '["../mine/thesis.tex"]'},
    "absolute": {".kfac.ready/.kfac.gone": '["kfac.json", "/mine"]'},
    "up": {".kfac.ready/.kfac.gone": '[".."]'},
    "itself": {".kfac.ready/.kfac.gone": '["."]'},
    "nothing": {".kfac.ready/.kfac.gone": '[""]'},
    "no names": {".kfac.ready/.kfac.gone": "[1]"},
    "no list": {".kfac.ready/.kfac.gone": '{"mine": 1}'},
    "no json": {".kfac.ready/.kfac.gone": "[" * 100_000},
    "a linked list": {".kfac.ready/.kfac.gone->": "../../mine/names.json"},
    "linked": {".kfac.ready->": "../mine"},
    "linked later": {".kfac.filling->": "../mine"},
}


@pytest.mark.parametrize("kind", FORGED)
def test_leftovers_that_come_with_a_directory_touch_nothing_outside(
    tmp_path: Path, kind: str
) -> None:
    """They may have been unpacked or fetched with it, from anybody."""
    mine = lay(tmp_path / "mine", {"thesis.tex": "years", "names.json": '["a"]'})
    place = lay(tmp_path / "a", {"notes.txt": "x", "a": "x", **FORGED[kind]})
    before = tree(mine), (place / "notes.txt").read_text(), (place / "a").read_text()
    for use in (recover, check_free, partial(write_new, replace=True)):
        with suppress(PlaceError):
            use(place)
    assert before == (
        tree(mine),
        (place / "notes.txt").read_text(),
        (place / "a").read_text(),
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "mine"]
