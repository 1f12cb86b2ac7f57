"""What is written is replaced whole or not at all, and nothing of others is lost."""

import errno
from pathlib import Path

import pytest

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places import check_file_free, check_free, contents_of, exchange
from tests.places.made import lay, read, tree, write, write_new

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
