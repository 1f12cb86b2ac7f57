"""What is left of runs that were killed, and what only resembles it."""

import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places import check_free, recover
from tests.places.made import lay, read, tree, write, write_new


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


def test_nothing_is_recovered_where_nothing_is(tmp_path: Path) -> None:
    recover(tmp_path / "a")
    recover(tmp_path / "b" / "a")
    assert list(tmp_path.iterdir()) == []


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
