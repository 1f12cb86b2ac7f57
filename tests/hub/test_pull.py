"""Pulling from a Hub with the real client, and everything that may go wrong."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from kfac_artifacts.errors import FormatError, PlaceError, RegistryError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import Hub, pull, push
from tests.hub.conftest import contents, write_artifact
from tests.hub.store import Fault
from tests.hub.wire import Server

ADDRESS = "hf://owner/kfac/mnli"


@pytest.fixture
def reference(hub: Hub, artifact: Path) -> str:
    return push(artifact, ADDRESS, hub=hub).reference


def only(directory: Path) -> list[str]:
    """What a failed pull must leave: nothing but what was there."""
    return sorted(path.name for path in directory.iterdir())


def test_a_branch_is_resolved_to_a_commit(
    server: Server, hub: Hub, reference: str, tmp_path: Path
) -> None:
    pulled = pull(f"{ADDRESS}@main", tmp_path / "copy", hub=hub)
    assert pulled.reference == reference
    origin = json.loads((tmp_path / "copy" / "pulled.json").read_text())
    assert origin == {
        "source": f"{ADDRESS}@main",
        "reference": reference,
        "digest": pulled.digest,
    }
    assert load_artifact(tmp_path / "copy").digest == pulled.digest
    assert server.store.leaks == []  # the token stayed at the Hub


def test_a_pinned_pull_from_the_cache_asks_for_nothing(
    server: Server, hub: Hub, reference: str, tmp_path: Path
) -> None:
    pull(reference, tmp_path / "a", hub=hub)
    server.store.requests.clear()
    pull(reference, tmp_path / "b", hub=hub)
    assert server.store.requests == []
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_shards_are_pulled_and_other_files_are_not(
    server: Server, hub: Hub, tmp_path: Path
) -> None:
    sharded = write_artifact(tmp_path / "sharded", shard_bytes=80)
    push(sharded, ADDRESS, hub=hub)
    repo = server.store.repos["owner/kfac"]
    repo.put("mnli/run.py", b"print('no')")
    repo.put("model.safetensors", b"weights", lfs=True)
    pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(sharded)
    assert len(contents(sharded)) > 3
    assert server.store.count("run.py|/model.safetensors") == 0


def test_a_tag_must_be_that_of_the_digest(
    server: Server, hub: Hub, reference: str, tmp_path: Path
) -> None:
    repo = server.store.repos["owner/kfac"]
    (tag,) = repo.tags
    pull(f"{ADDRESS}@{tag}", tmp_path / "copy", hub=hub)
    repo.tags["kfac-0123456789ab"] = repo.tags[tag]
    with pytest.raises(RegistryError, match="the tag was moved"):
        pull(f"{ADDRESS}@kfac-0123456789ab", tmp_path / "other", hub=hub)
    assert not (tmp_path / "other").exists()


def test_a_pulled_artifact_can_be_pushed_on(
    server: Server, hub: Hub, reference: str, tmp_path: Path
) -> None:
    pull(reference, tmp_path / "copy", hub=hub)
    push(tmp_path / "copy", "hf://owner/fork", hub=hub)
    files = server.store.repos["owner/fork"].head
    assert "pulled.json" not in files
    assert b"kfac pull hf://owner/fork curvature" in files["README.md"].content


def test_an_artifact_is_replaced_on_request_only(
    hub: Hub, reference: str, tmp_path: Path
) -> None:
    target = write_artifact(tmp_path / "target", seed=3)
    before = contents(target)
    with pytest.raises(PlaceError, match="exists already"):
        pull(reference, target, hub=hub)
    assert contents(target) == before
    pull(reference, target, replace=True, hub=hub)
    assert contents(target) != before


def test_other_things_are_never_replaced(
    hub: Hub, reference: str, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(PlaceError, match=r"holds other things.*thesis\.tex"):
        pull(reference, target, replace=True, hub=hub)
    assert only(target) == ["thesis.tex"]


@pytest.mark.parametrize("kind", ["drop", "truncate", "short", "flip", "status"])
def test_a_pull_survives_one_fault(
    server: Server, hub: Hub, artifact: Path, reference: str, tmp_path: Path, kind: str
) -> None:
    server.store.faults.append(Fault("GET /storage", kind, times=1))
    pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)
    assert server.store.count("GET /storage") == 2


@pytest.mark.parametrize("request_", ["GET /api/models/owner/kfac$", "HEAD .*json"])
def test_a_pull_survives_one_503_of_the_api(
    server: Server, hub: Hub, reference: str, tmp_path: Path, request_: str
) -> None:
    server.store.faults.append(Fault(request_, "status", times=1))
    assert not pull(ADDRESS, tmp_path / "copy", hub=hub).stale


def test_a_manifest_damaged_on_the_way_is_fetched_again(
    server: Server, hub: Hub, artifact: Path, reference: str, tmp_path: Path
) -> None:
    server.store.faults.append(Fault("GET .*/resolve/.*kfac.json", "flip", times=1))
    pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)


def test_a_file_damaged_in_the_cache_is_fetched_again(
    server: Server, hub: Hub, artifact: Path, reference: str, tmp_path: Path
) -> None:
    pull(reference, tmp_path / "a", hub=hub)
    (cached,) = hub.cache.rglob("snapshots/*/mnli/factors.safetensors")
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.resolve().write_bytes(content)
    pull(reference, tmp_path / "b", hub=hub)
    assert contents(tmp_path / "b") == contents(artifact)


def test_bytes_that_are_always_wrong_are_refused(
    server: Server, hub: Hub, reference: str, tmp_path: Path
) -> None:
    before = only(tmp_path)
    server.store.faults.append(Fault("GET /storage", "flip"))
    with pytest.raises(FormatError, match=r"factors\.safetensors .* damaged"):
        pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert set(only(tmp_path)) - set(before) == {"cache"}
    assert server.store.count("GET /storage") == 3


def test_a_missing_file_is_noticed_before_the_download(
    server: Server, hub: Hub, reference: str, tmp_path: Path
) -> None:
    repo = server.store.repos["owner/kfac"]
    files = {p: b for p, b in repo.head.items() if not p.endswith(".safetensors")}
    repo.commit(files)
    with pytest.raises(FormatError, match="there is no such file"):
        pull(ADDRESS, tmp_path / "copy", hub=hub)


def test_a_file_of_another_size_is_not_downloaded(
    server: Server, hub: Hub, reference: str, tmp_path: Path
) -> None:
    server.store.repos["owner/kfac"].put(
        "mnli/factors.safetensors", b"x" * 10_000, lfs=True
    )
    with pytest.raises(FormatError, match="there is 10000 bytes"):
        pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert server.store.count("GET /storage") == 0


def test_a_manifest_cannot_lead_out_of_its_folder(
    server: Server, hub: Hub, artifact: Path, reference: str, tmp_path: Path
) -> None:
    manifest = json.loads((artifact / "kfac.json").read_text())
    (info,) = manifest["files"].values()
    manifest["files"] = {"../../README.md": info}
    content = json.dumps(manifest).encode()
    server.store.repos["owner/kfac"].put("mnli/kfac.json", content)
    with pytest.raises(FormatError, match=r"kfac\.json is not valid: files: "):
        pull(ADDRESS, tmp_path / "copy", hub=hub)


def test_without_an_answer_the_cache_is_used_and_it_is_said(
    server: Server, hub: Hub, artifact: Path, reference: str, tmp_path: Path
) -> None:
    pull(ADDRESS, tmp_path / "a", hub=hub)
    push(write_artifact(tmp_path / "new", seed=1), ADDRESS, hub=hub)
    server.store.faults.append(Fault("GET", "status"))
    pulled = pull(ADDRESS, tmp_path / "b", hub=hub)
    assert pulled.stale
    assert pulled.reference == reference
    assert contents(tmp_path / "b") == contents(artifact)


def test_offline_the_cache_is_used_and_it_is_said(
    hub: Hub, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(ADDRESS, tmp_path / "a", hub=hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull(ADDRESS, tmp_path / "b", hub=hub).stale
    assert not pull(reference, tmp_path / "c", hub=hub).stale


def test_the_latest_artifact_is_pulled_once_the_hub_answers(
    hub: Hub, reference: str, tmp_path: Path
) -> None:
    pull(ADDRESS, tmp_path / "a", hub=hub)
    new = write_artifact(tmp_path / "new", seed=1)
    push(new, ADDRESS, hub=hub)
    pull(ADDRESS, tmp_path / "b", hub=hub)
    assert contents(tmp_path / "b") == contents(new)


def test_a_hub_that_claims_xet_without_having_it_is_served_by_lfs(
    server: Server,
    hub: Hub,
    artifact: Path,
    reference: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    server.store.claims_xet = True
    pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)
