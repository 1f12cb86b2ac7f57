"""Pulling by meaning: totals, selections, lock files, what stands beside weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import (
    AddressError,
    ConnectionFailed,
    FormatError,
    RegistryError,
    SettingsError,
)
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import Hub, push
from kfac_artifacts.registry import (
    Offer,
    Selection,
    add,
    open_registry,
    pull_locked,
    remove,
    take,
    write_lock,
)
from tests.commands import bad, good
from tests.hub.conftest import Made, contents, write_artifact
from tests.hub.store import Fault
from tests.hub.wire import Server

PLACES = ["owner/registry", "directory"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, hub: Hub, made: Made, tmp_path: Path) -> str:
    """A registry of four tasks, one of which is published compressed, too."""
    named = request.param
    place = str(tmp_path / "registry") if named == "directory" else named
    registry = open_registry(place, hub=hub)
    for number in range(4):
        recipes = ("block-2",) if number < 2 else ()
        add(registry, Offer(made(number), recipes=recipes))
    return place


def merged(made: Made, tmp_path: Path, *numbers: int) -> str:
    good("merge", *(made(n) for n in numbers), "-o", tmp_path / "expected", "--force")
    return load_artifact(tmp_path / "expected").digest or ""


def test_totals_and_selections_are_what_merging_gives(
    place: str, hub: Hub, made: Made, tmp_path: Path
) -> None:
    total = take(place, tmp_path / "total", hub=hub).pulled
    assert total.digest == merged(made, tmp_path, 0, 1, 2, 3)
    chosen = Selection(tasks=("data2", "data0"))
    some = take(place, tmp_path / "some", chosen, hub=hub).pulled
    assert some.digest == merged(made, tmp_path, 0, 2)
    one = take(place, tmp_path / "one", Selection(tasks=("data1",)), hub=hub).pulled
    assert contents(tmp_path / "one") == contents(made(1))
    assert place in one.reference
    small = Selection(tasks=("data0", "data1"), recipe="block-2")
    take(place, tmp_path / "small", small, hub=hub)
    factors = load_artifact(tmp_path / "small").factors
    assert factors.structure("linear.A").name == "block_diagonal"


def test_all_but_one_is_the_merge_of_the_others(
    place: str, hub: Hub, made: Made, tmp_path: Path
) -> None:
    taken = take(place, tmp_path / "others", Selection(all_but=("data3",)), hub=hub)
    signs = [1, 1, 1] if Path(place).exists() else [1, -1]  # which is less to fetch
    assert taken.way is not None
    assert [piece.sign for piece in taken.way.pieces] == signs
    merged(made, tmp_path, 0, 1, 2)
    others, expected = (
        load_artifact(tmp_path / name) for name in ("others", "expected")
    )
    sources = [{s.data.id for s in a.provenance.sources} for a in (others, expected)]
    assert sources[0] == sources[1] == {"data0", "data1", "data2"}
    for name, factor in expected.factors.items():
        found = others.factors[name].to_dense()
        torch.testing.assert_close(found, factor.to_dense(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "chosen",
    [
        Selection(all_but=("data0",), recipe="block-2"),
        Selection(tasks=("data1", "data2", "data3"), recipe="block-2"),
    ],
)
def test_what_is_not_published_compressed_is_compressed_on_arrival(
    place: str,
    hub: Hub,
    made: Made,
    tmp_path: Path,
    chosen: Selection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = take(place, tmp_path / "others", chosen, hub=hub)
    assert "not published as block-2: data2, data3; it is made" in caplog.text
    plain = replace(chosen, recipe=None)
    take(place, tmp_path / "plain", plain, hub=hub)
    save_artifact(
        load_artifact(tmp_path / "plain"), tmp_path / "expected", recipe="block-2"
    )
    assert contents(tmp_path / "others") == contents(tmp_path / "expected")
    write_lock(tmp_path / "kfac.lock", taken)
    remove(open_registry(place, hub=hub), "data1")
    shutil.rmtree(tmp_path / "others")
    pull_locked(tmp_path / "kfac.lock", hub=hub)
    assert contents(tmp_path / "others") == contents(tmp_path / "expected")


def test_what_is_not_there_is_refused_by_name(
    place: str, hub: Hub, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RegistryError, match=r"has mine; the tasks are data0, data1"):
        take(place, out, Selection(all_but=("mine",)), hub=hub)
    with pytest.raises(SettingsError, match=r"no recipe 'sideways'"):
        take(place, out, Selection(recipe="sideways"), hub=hub)
    with pytest.raises(RegistryError, match="no collection 'x'"):
        take(place, out, Selection(collection="x"), hub=hub)
    with pytest.raises(AddressError, match="either"):
        Selection(tasks=("a",), all_but=("b",))
    assert not out.exists()


def test_what_is_locked_is_pulled_again_whatever_has_changed(
    place: str, hub: Hub, made: Made, tmp_path: Path
) -> None:
    lock, before = tmp_path / "kfac.lock", {}
    chosen = {"total": Selection(), "others": Selection(all_but=("data0",))}
    for name, selection in chosen.items():
        taken = take(place, tmp_path / name, selection, hub=hub)
        write_lock(lock, taken)
        before[name] = contents(tmp_path / name)
    assert all(not p.size for p in pull_locked(lock, hub=hub))  # all of it is there
    remove(open_registry(place, hub=hub), "data1")
    add(open_registry(place, hub=hub), Offer(made(5)))
    for name in chosen:
        shutil.rmtree(tmp_path / name)
    pull_locked(lock, hub=hub)
    assert {n: contents(tmp_path / n) for n in chosen} == before


def test_a_lock_is_kept_without_a_connection(
    server: Server, hub: Hub, made: Made, tmp_path: Path
) -> None:
    registry = open_registry("hf://owner/registry", hub=hub)
    for number in range(2):
        add(registry, Offer(made(number)))
    lock, chosen = tmp_path / "kfac.lock", Selection(tasks=("data0", "data1"))
    taken = take("hf://owner/registry", tmp_path / "mine", chosen, hub=hub)
    write_lock(lock, taken)
    before = contents(tmp_path / "mine")
    server.store.faults.append(Fault("", "drop"))
    shutil.rmtree(tmp_path / "mine")
    pull_locked(lock, hub=hub)
    assert contents(tmp_path / "mine") == before
    again = take("hf://owner/registry", tmp_path / "again", chosen, hub=hub)
    assert again.pulled.stale
    empty = Hub(server.url, cache_dir=tmp_path / "empty", retries=0)
    with pytest.raises(ConnectionFailed):
        take("hf://owner/registry", tmp_path / "third", chosen, hub=empty)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_a_lock_names_no_place_outside(tmp_path: Path, name: str, hub: Hub) -> None:
    entry = {
        "reference": "registry",
        "digest": f"sha256:{'0' * 64}",
        "pieces": [],
    }
    head = {"format": "kfac-lock", "version": 1}
    (tmp_path / "kfac.lock").write_text(json.dumps({**head, "pulled": {name: entry}}))
    with pytest.raises(FormatError, match="not in its folder"):
        pull_locked(tmp_path / "kfac.lock", hub=hub)


def test_an_artifact_that_was_exchanged_is_refused(
    server: Server, hub: Hub, made: Made, tmp_path: Path
) -> None:
    registry = open_registry("hf://owner/registry", hub=hub)
    for number in range(2):
        add(registry, Offer(made(number)))
    repo = server.store.repos["owner/registry"]
    (manifest,) = [p for p in repo.head if "/total/" in p and "kfac.json" in p]
    folder = manifest.rpartition("/")[0]
    for name in ("kfac.json", "factors.safetensors"):  # a whole artifact, another one
        content = (made(2) / name).read_bytes()
        repo.put(f"{folder}/{name}", content, lfs=name != "kfac.json")
    with pytest.raises(FormatError, match="is not the artifact"):
        take("hf://owner/registry", tmp_path / "out", hub=hub)
    assert not (tmp_path / "out").exists()


def test_curvature_beside_the_weights_is_found(
    hub: Hub, server: Server, made: Made, tmp_path: Path
) -> None:
    repo = server.store.create("owner/model")
    repo.put("model.safetensors", b"weights", lfs=True)
    repo.put("README.md", b"the model's own card")
    push(made(0), "hf://owner/model/kfac", hub=hub)
    assert repo.head["README.md"].content == b"the model's own card"
    pulled = take("owner/model", tmp_path / "curvature", hub=hub).pulled
    assert pulled.digest == load_artifact(made(0)).digest
    shutil.copytree(made(0), tmp_path / "model" / "kfac")
    (tmp_path / "model" / "config.json").write_text("{}")
    here = take(tmp_path / "model", tmp_path / "here", hub=hub).pulled
    assert here.digest == pulled.digest
    with pytest.raises(RegistryError, match="is no registry"):
        take("owner/model", tmp_path / "x", Selection(tasks=("a",)), hub=hub)


def test_a_newcomer_needs_no_more_than_a_name(
    hub: Hub,
    server: Server,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    end = ("--endpoint", server.url)
    for number in range(3):
        good("registry", "add", made(number), "hf://owner/registry", *end)
    good("pull", "owner/registry", "--all-but", "data1", "--lock", "kfac.lock", *end)
    sources = load_artifact("registry").provenance.sources
    assert {source.data.id for source in sources} == {"data0", "data2"}
    shutil.rmtree("registry")
    good("pull", "--locked", *end)
    assert "there already" in bad_or_good("pull", "--locked", *end)
    assert "SOURCE" in bad("pull", code=2)
    assert "no SOURCE" in bad("pull", "owner/registry", "--locked", code=2)


def bad_or_good(*words: str) -> str:
    from tests.commands import kfac

    return kfac(*words).output


def test_a_plain_artifact_is_pulled_as_ever(hub: Hub, tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact")
    pushed = push(artifact, str(tmp_path / "place"))
    assert (
        take(pushed.reference, tmp_path / "a", hub=hub).pulled.digest == pushed.digest
    )
    write_lock(tmp_path / "kfac.lock", take(pushed.reference, tmp_path / "b", hub=hub))
    shutil.rmtree(tmp_path / "b")
    (done,) = pull_locked(tmp_path / "kfac.lock", hub=hub)
    assert done.digest == pushed.digest


def test_a_pull_of_what_is_here_wants_a_place(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(open_registry(tmp_path / "registry"), Offer(made(0)))
    monkeypatch.chdir(tmp_path)
    for source in ("registry", "./registry/"):
        said = bad("pull", source, code=2)
        assert f"say where it goes: kfac pull {source} DIRECTORY" in said
    good("pull", "registry", "total")
    assert load_artifact(tmp_path / "total").provenance.tasks == 1


def test_a_registry_in_place_of_an_artifact_is_told(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "registry"
    add(open_registry(place), Offer(made(0)))
    assert f"`kfac pull {place} total` makes one" in bad("inspect", place, code=3)
    assert "is no artifact" in bad("inspect", tmp_path, code=3)
