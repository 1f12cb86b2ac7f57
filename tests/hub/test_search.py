"""Finding artifacts, on the Hub and in directories."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from kfac_artifacts.hub import Hub, push
from kfac_artifacts.registry import Offer, add, open_registry, search
from tests.commands import bad, good, kfac
from tests.hub.conftest import Made, contents, write_artifact
from tests.hub.store import Fault
from tests.hub.test_task_vectors import write_vector
from tests.hub.wire import Server


@pytest.fixture
def published(server: Server, hub: Hub, made: Made, tmp_path: Path) -> str:
    """A registry of a local model, an artifact of another one, and other things."""
    registry = open_registry("hf://owner/registry", hub=hub)
    for number in range(2):
        add(registry, Offer(made(number), license="mit"))
    artifact = write_artifact(tmp_path / "artifact")
    push(artifact, "hf://owner/single", license="cc-by-4.0", hub=hub)
    push(artifact, "hf://owner/hidden", private=True, hub=hub)
    server.store.create("owner/else").put("config.json", b"{}")
    return server.url


def test_the_hub_is_searched_by_model(published: str, hub: Hub) -> None:
    every = search(hub=hub)
    assert [(f.place, f.task) for f in every] == [
        ("hf://owner/registry", "data0"),
        ("hf://owner/registry", "data1"),
        ("hf://owner/single", "org/texts"),
    ]
    (single,) = search("org/encoder", hub=hub)
    assert (single.estimator, single.examples, single.size) == ("kfac", 8, 100)
    assert (single.date, single.license) == ("2026-11-25", "cc-by-4.0")
    assert search("encoder", hub=hub) == [single]
    assert [f.license for f in search("toy", hub=hub)] == ["mit", "mit"]
    assert search("org/other", hub=hub) == []


def test_what_is_broken_is_passed_over(
    published: str, hub: Hub, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    card = server.store.repos["owner/single"].head["README.md"].content
    broken = server.store.create("owner/broken")
    broken.put("README.md", card)
    broken.put("kfac.json", b'{"format": "kfac-artifact"}')
    server.store.repos["../../x"] = broken
    assert {f.place for f in search(hub=hub)} == {
        "hf://owner/registry",
        "hf://owner/single",
    }
    assert sum("was passed over" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (401, ("RepoNotFound", "Repository not found"), 4),  # as olah 0.5.4
        (404, ("RepoNotFound", "Sorry, we can't find the page"), 1),  # so does it, too
        (401, ("", ""), 4),
        (403, ("", "Forbidden"), 4),
        (404, ("EntryNotFound", ""), 1),
        (405, ("", ""), 1),
    ],
)
def test_a_server_without_a_search_says_so(
    published: str, server: Server, status: int, said: tuple[str, str], code: int
) -> None:
    heads = dict(zip(("X-Error-Code", "X-Error-Message"), said, strict=True))
    server.store.faults.append(
        Fault("GET /api/models$", "status", status=status, headers=heads)
    )
    told = bad("search", "--base-model", "toy", "--endpoint", published, code=code)
    assert f"{published} offers no search" in told
    assert f"answered {status} to {published}/api/models" in told
    assert "kfac search hf://org/name" in told
    assert "token" not in told
    assert "log in" not in told
    good("search", "hf://owner/registry", "--endpoint", published)


def test_a_token_that_is_none_is_told_from_a_server_without_a_search(
    server: Server, hub: Hub
) -> None:
    heads = {"X-Error-Message": "Invalid credentials in Authorization header"}
    server.store.faults.append(Fault("", "status", status=401, headers=heads))
    told = bad("search", "--endpoint", server.url, code=4)
    assert "token was not accepted" in told
    assert "offers no search" not in told


def test_a_directory_and_a_repository_are_searched(
    published: str, hub: Hub, made: Made, tmp_path: Path
) -> None:
    root = tmp_path / "here"
    add(open_registry(root / "registry"), Offer(made(0)))
    push(tmp_path / "artifact", str(root / "deep" / "down"))
    found = search(None, [root], hub=hub)
    assert [(Path(f.place).name, f.task) for f in found] == [
        ("down", "org/texts"),
        ("registry", "data0"),
    ]
    assert [f.task for f in search("toy", [root, "owner/registry"], hub=hub)] == [
        "data0",
        "data0",
        "data1",
    ]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    assert "there is no directory" in bad("search", str(tmp_path / "no"))
    write_artifact(tmp_path / "here")
    done = kfac("search", str(tmp_path), "--base-model", "org/other")
    assert done.exit_code == 0
    assert "nothing is of org/other; what there is is of org/encoder" in done.stderr


def test_task_vectors_are_found_as_artifacts_are(
    server: Server, hub: Hub, tmp_path: Path
) -> None:
    push(write_vector(tmp_path / "tau"), "hf://owner/taus/mine", license="mit", hub=hub)
    push(write_artifact(tmp_path / "artifact"), "hf://owner/taus/curvature", hub=hub)
    found = {f.kind: f for f in search("encoder", hub=hub)}
    assert set(found) == {"curvature", "task vector"}
    there = found["task vector"]
    assert (there.place, there.task) == ("hf://owner/taus/mine", "my|tickets")
    assert (there.estimator, there.examples, there.size) == (None, None, None)
    assert there.bytes == sum(len(b) for b in contents(tmp_path / "tau").values())
    (here,) = (f for f in search("encoder", [tmp_path]) if f.kind == "task vector")
    assert (here.place, here.bytes) == (str(tmp_path / "tau"), there.bytes)
    assert search("other", [tmp_path]) == []


def test_a_task_vector_has_a_row_of_its_own(tmp_path: Path) -> None:
    write_vector(tmp_path / "my tau")
    done = kfac("search", str(tmp_path))
    assert done.output.splitlines()[1].startswith("task vector ")
    assert f"kfac pull '{tmp_path / 'my tau'}' tau" in done.output
    (told,) = json.loads(good("search", str(tmp_path), "--json"))
    assert (told["kind"], told["examples"]) == ("task vector", None)


def test_the_command_says_how_to_take_it(
    published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    words = ("search", "--base-model", "toy", "--endpoint", published)
    done = kfac(*words)
    lines = done.stdout.splitlines()
    words_of_it = ["curvature", "hf://owner/registry", "data0", "toy", "kfac"]
    assert lines[1].split()[:5] == words_of_it
    assert "kfac pull hf://owner/registry total\n" in done.stderr
    assert [f["task"] for f in json.loads(good(*words, "--json"))] == ["data0", "data1"]
