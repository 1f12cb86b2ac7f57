"""Taking back what was published: files, totals, history."""

import json
import shutil
from pathlib import Path

import pytest

from kfac_artifacts.errors import PlaceError, RegistryError
from kfac_artifacts.hub import Hub
from kfac_artifacts.registry import (
    Offer,
    add,
    check,
    open_registry,
    read_registry,
    remove,
    withdraw,
)
from tests.commands import good, kfac
from tests.hub.conftest import Made
from tests.hub.wire import Server

PLACE = "hf://owner/registry"


@pytest.fixture
def place(tmp_path: Path, made: Made) -> Path:
    root = tmp_path / "registry"
    for number in range(3):
        recipes = ("block-2",) if number == 1 else ()
        add(open_registry(root), Offer(made(number), recipes=recipes))
    return root


def files(root: Path) -> set[str]:
    every = (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    return {p for p in every if not p.startswith(("log/", "README", "registry.json"))}


def wrong(place: Path) -> list[str]:
    return list(check(*read_registry(place)))


def test_all_that_there_was_of_a_task_is_deleted(
    place: Path, made: Made, tmp_path: Path
) -> None:
    done = withdraw(open_registry(place), "data1")
    assert (done.tasks, done.history) == (("data0", "data2"), None)
    never = tmp_path / "never"
    for number in (0, 2):
        add(open_registry(never), Offer(made(number)))
    assert files(place) == files(
        never
    )  # the total, too, is as if it had not been there
    assert wrong(place) == []
    actions = [c.action for c in read_registry(place)[1].index.changes]
    assert actions == ["add", "add", "add", "withdraw"]
    assert not withdraw(open_registry(place), "data1").changed
    assert add(open_registry(place), Offer(made(1))).tasks[1] == "data1"
    assert wrong(place) == []


def test_versions_that_do_not_count_go_as_well(place: Path, made: Made) -> None:
    add(open_registry(place), Offer(made(3), task="data1", new_version=True))
    remove(open_registry(place), "data1")
    withdraw(open_registry(place), "data1")
    assert not [path for path in files(place) if "/tasks/data1/" in path]
    assert wrong(place) == []


def test_what_a_killed_run_has_left_is_found_and_deleted(
    place: Path, tmp_path: Path
) -> None:
    (folder,) = place.glob("*/tasks/data1")
    (total,) = place.glob("*/total/*")
    for number, each in enumerate((folder, total)):
        shutil.copytree(each, tmp_path / str(number))
    withdraw(open_registry(place), "data1")
    before = files(place)
    shutil.copytree(tmp_path / "0", folder)
    shutil.copytree(tmp_path / "1", total)
    assert "data1 was withdrawn, but is there" in wrong(place)[0]
    assert withdraw(open_registry(place), "data1").changed
    assert files(place) == before


def test_what_cannot_be_deleted_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(PlaceError, match=r"tasks/data1.* could not be deleted"):
        withdraw(open_registry(place), "data1")


def test_what_was_never_there_is_not_withdrawn(place: Path) -> None:
    with pytest.raises(RegistryError, match="there is no 'data7'; there are data0"):
        withdraw(open_registry(place), "data7")


def test_on_a_hub_it_is_said_that_the_history_holds_it(
    server: Server, hub: Hub, made: Made
) -> None:
    for number in range(2):
        add(open_registry(PLACE, hub=hub), Offer(made(number)))
    how = ("--endpoint", server.url)
    result = kfac("registry", "withdraw", PLACE, "data0", *how)
    assert result.exit_code == 0, result.output
    assert "super_squash_history('owner/registry')" in result.stderr
    repo = server.store.repos["owner/registry"]
    assert not [path for path in repo.head if "/data0/" in path]
    assert len({Path(path).parent for path in repo.head if "/total/" in path}) == 1
    assert len(repo.log) == 4
    listed = json.loads(good("registry", "list", PLACE, "--json", *how))
    assert [[*c["tasks"]] for c in listed["collections"].values()] == [["data1"]]
    assert list(check(*read_registry(PLACE, hub=hub))) == []
