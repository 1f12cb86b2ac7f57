"""A registry in a Hub repository, through the real client."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from kfac_artifacts.errors import FormatError
from kfac_artifacts.hub import Hub
from kfac_artifacts.registry import (
    Offer,
    add,
    check,
    open_registry,
    read_registry,
    remove,
)
from tests.hub.conftest import Made
from tests.hub.store import Fault
from tests.hub.wire import Server

PLACE = "hf://owner/registry"


def wrong(hub: Hub) -> list[str]:
    return list(check(*read_registry(PLACE, hub=hub)))


def test_a_change_is_one_commit(server: Server, hub: Hub, made: Made) -> None:
    done = add(open_registry(PLACE, hub=hub), Offer(made(0), recipes=("block-2",)))
    repo = server.store.repos["owner/registry"]
    assert len(repo.log) == 2  # the first one is the Hub's own
    assert done.head == repo.log[-1]
    first = set(repo.head)
    assert {"registry.json", "README.md"} < first
    add(open_registry(PLACE, hub=hub), Offer(made(1)))
    remove(open_registry(PLACE, hub=hub), "data1")
    assert len(repo.log) == 4
    assert {p for p in first if "/total/" in p} <= set(repo.head)
    assert wrong(hub) == []


def test_the_total_is_that_of_a_directory(
    server: Server, hub: Hub, made: Made, tmp_path: Path
) -> None:
    totals = []
    for place in (PLACE, tmp_path / "registry"):
        for number in (1, 0):
            done = add(open_registry(place, hub=hub), Offer(made(number)))
        totals.append(done.total)
    assert totals[0] == totals[1] is not None


def test_who_is_overtaken_makes_the_total_again(
    server: Server, hub: Hub, made: Made, tmp_path: Path
) -> None:
    """Somebody else, on another machine, commits between the look and the commit."""
    add(open_registry(PLACE, hub=hub), Offer(made(0)))
    elsewhere = Hub(server.url, cache_dir=tmp_path / "elsewhere", wait=0.01)

    def meanwhile() -> None:
        server.store.faults.clear()
        add(open_registry(PLACE, hub=elsewhere), Offer(made(1)))

    action = Fault("POST .*/commit/", "meanwhile", times=1, action=meanwhile)
    server.store.faults.append(action)
    done = add(open_registry(PLACE, hub=hub), Offer(made(2)))
    assert done.tasks == ("data0", "data1", "data2")
    assert wrong(hub) == []


@pytest.mark.parametrize("checks_parent", [True, False])
def test_of_many_that_add_at_once_none_is_lost(
    server: Server, hub: Hub, made: Made, tmp_path: Path, checks_parent: bool
) -> None:
    """Each from a machine of its own; also where the Hub does not check the parent."""
    server.store.checks_parent = checks_parent
    count = 4
    for number in range(count):
        made(number)
    failed: list[BaseException] = []

    def publish(number: int) -> None:
        own = Hub(server.url, cache_dir=tmp_path / f"cache{number}", wait=0.05)
        try:
            add(open_registry(PLACE, hub=own), Offer(made(number)))
        except BaseException as error:
            failed.append(error)

    add(open_registry(PLACE, hub=hub), Offer(made(0)))
    threads = [
        threading.Thread(target=publish, args=(number,)) for number in range(1, count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    _, state = read_registry(PLACE, hub=hub)
    (collection,) = state.index.collections.values()
    assert set(collection.current) == {f"data{number}" for number in range(count)}
    assert wrong(hub) == []


def test_what_the_cache_has_is_not_asked_for_again(
    server: Server, hub: Hub, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever commit it is of: an artifact is what its digest says."""
    for number in range(2):
        add(open_registry(PLACE, hub=hub), Offer(made(number), recipes=("block-2",)))
    server.store.requests.clear()
    with caplog.at_level("INFO", "kfac_artifacts.hub"):
        add(open_registry(PLACE, hub=hub), Offer(made(2)))
    assert "1 of 2 artifacts are downloaded, 0.0 MB" in caplog.text
    assert server.store.count("GET /storage") == 1  # data1, and no compressed form
    assert server.store.count("GET .*/tasks/data1/.*kfac.json") == 1
    assert server.store.count("/tasks/data0/") == 0
    server.store.requests.clear()
    remove(open_registry(PLACE, hub=hub), "data2")
    assert server.store.count("/tasks/") == 0
    assert wrong(hub) == []


def test_what_is_damaged_in_the_cache_is_fetched_though_its_commit_is_gone(
    server: Server, hub: Hub, made: Made
) -> None:
    for number in range(3):
        add(open_registry(PLACE, hub=hub), Offer(made(number)))
    repo = server.store.repos["owner/registry"]
    repo.commits = {repo.branches["main"]: repo.head}  # history was purged
    for file in hub.cache.rglob("snapshots/*/*/tasks/data0/*/factors.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.resolve().write_bytes(content)
    assert wrong(hub) == []


def test_an_answer_that_is_lost_does_no_harm(
    server: Server, hub: Hub, made: Made
) -> None:
    add(open_registry(PLACE, hub=hub), Offer(made(0)))
    server.store.faults.append(Fault("POST .*/commit/", "lose", times=1))
    assert add(open_registry(PLACE, hub=hub), Offer(made(1))).changed
    _, state = read_registry(PLACE, hub=hub)
    assert len(state.index.changes) == 2
    assert wrong(hub) == []


def test_an_artifact_that_was_tampered_with_is_refused(
    server: Server, hub: Hub, made: Made, tmp_path: Path
) -> None:
    add(open_registry(PLACE, hub=hub), Offer(made(0)))
    add(open_registry(PLACE, hub=hub), Offer(made(1)))
    repo = server.store.repos["owner/registry"]
    (manifest,) = [p for p in repo.head if "/tasks/data0/" in p and "kfac.json" in p]
    folder = manifest.rpartition("/")[0]
    for name in ("kfac.json", "factors.safetensors"):  # a whole artifact, another one
        content = (made(2) / name).read_bytes()
        repo.put(f"{folder}/{name}", content, lfs=name != "kfac.json")
    assert any("is not the artifact" in sentence for sentence in wrong(hub))
    with pytest.raises(FormatError, match="is not the artifact"):
        add(
            open_registry(PLACE, hub=replace(hub, cache_dir=tmp_path / "fresh")),
            Offer(made(3)),
        )


def test_ids_of_commits_may_be_longer(server: Server, hub: Hub, made: Made) -> None:
    repo = server.store.create("owner/registry")
    repo.sha_length = 64
    repo.commit(dict(repo.head))
    assert constants.REGEX_COMMIT_OID.fullmatch(repo.log[-1]) is None
    for number in range(2):
        add(open_registry(PLACE, hub=hub), Offer(made(number)))
    assert wrong(hub) == []
