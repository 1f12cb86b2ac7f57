"""Nothing in the cache is believed: it heals itself, or the path in it is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from kfac_artifacts.errors import ConnectionFailed, FormatError, RegistryError
from kfac_artifacts.hub import Hub, pull, push
from tests.hub.conftest import contents, write_artifact
from tests.hub.store import Fault
from tests.hub.wire import Server

ADDRESS = "hf://owner/kfac/mnli"


@pytest.fixture
def pinned(server: Server, hub: Hub, artifact: Path, tmp_path: Path) -> str:
    """Push, pull once, and give the pinned address of what is in the cache now."""
    reference = push(artifact, ADDRESS, hub=hub).reference
    pull(ADDRESS, tmp_path / "before", hub=hub)
    return reference


def cached(hub: Hub, name: str) -> Path:
    (found,) = hub.cache.glob(f"models--owner--kfac/snapshots/*/mnli/{name}")
    return found


def emptied(file: Path) -> None:
    file.resolve().write_bytes(b"")


def cut(file: Path) -> None:
    file.resolve().write_bytes(file.read_bytes()[:-7])


def altered(file: Path) -> None:
    content = file.read_bytes().replace(b"org/encoder", b"org/encodes")
    file.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def dangling(file: Path) -> None:
    file.resolve().unlink()


def led_out(file: Path) -> None:
    outside = file.parents[5] / "outside"
    outside.write_bytes(file.read_bytes()[::-1])
    file.unlink()
    file.symlink_to(outside)


@pytest.mark.parametrize("name", ["kfac.json", "factors.safetensors"])
@pytest.mark.parametrize("damage", [emptied, cut, altered, dangling, led_out])
def test_damage_is_healed(
    hub: Hub,
    artifact: Path,
    pinned: str,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    damage(cached(hub, name))
    pull(pinned, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)


@pytest.mark.parametrize("address", [ADDRESS, "pinned"])
@pytest.mark.parametrize("listing", [{}, {"x": 1}, None, "wrong sizes"])
def test_a_poisoned_listing_blocks_nothing(
    hub: Hub,
    artifact: Path,
    pinned: str,
    tmp_path: Path,
    address: str,
    listing: object,
) -> None:
    snapshot_download(
        "owner/kfac", endpoint=hub.url, cache_dir=hub.cache, revision=pinned[-40:]
    )
    (file,) = hub.cache.glob("models--owner--kfac/trees/*.json")
    known = json.loads(file.read_text())
    if listing == "wrong sizes":
        entries = {k: {**v, "size": 1} for k, v in known["files"].items()}
        listing = {**known, "files": entries}
    elif listing == {}:
        listing = {**known, "files": {}}
    file.write_text(json.dumps(listing))
    shutil.rmtree(cached(hub, "kfac.json").parents[1])
    where = pinned if address == "pinned" else address
    pull(where, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)


@pytest.mark.parametrize("note", [b"", b"\xff" * 9, b"../../x", b"0" * 40, b"x" * 999])
def test_a_note_that_leads_nowhere_is_not_believed(
    server: Server, hub: Hub, pinned: str, tmp_path: Path, note: bytes
) -> None:
    (file,) = hub.cache.glob("models--owner--kfac/refs/main")
    file.write_bytes(note)
    server.store.faults.append(Fault("", "status"))
    with pytest.raises(ConnectionFailed, match="not in the cache"):
        pull(ADDRESS, tmp_path / "copy", hub=hub)
    server.store.faults.clear()
    assert pull(ADDRESS, tmp_path / "copy", hub=hub).reference == pinned
    assert file.read_text() == pinned[-40:]


def test_a_directory_in_the_place_of_a_file_is_named(
    hub: Hub, pinned: str, tmp_path: Path
) -> None:
    file = cached(hub, "kfac.json")
    file.unlink()
    file.mkdir()
    with pytest.raises(RegistryError, match=f"{file}: .* directory"):
        pull(pinned, tmp_path / "copy", hub=hub)


def test_a_file_in_the_place_of_the_cache_is_named(
    hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    push(artifact, ADDRESS, hub=hub)
    hub.cache.write_text("no directory")
    with pytest.raises(RegistryError, match=f"{hub.cache}.*must be a directory"):
        pull(ADDRESS, tmp_path / "copy", hub=hub)


def test_an_altered_manifest_is_never_called_verified(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    """Nothing but the hash by which git knows it tells: it is valid and complete."""
    push(artifact, ADDRESS, hub=hub)

    def alter(content: bytes) -> bytes:
        return content.replace(b"org/encoder", b"org/encodes")

    answer = Fault("GET .*/resolve/.*json", "answer", status=200, body=alter)
    server.store.faults.append(answer)
    with pytest.raises(ConnectionFailed, match=r"kfac\.json was altered on the way"):
        pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert not (tmp_path / "copy").exists()
    answer.times = 2
    pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)


def test_the_manifest_that_appears_is_the_one_that_was_checked(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    """The cache changes between the check of the manifest and the copy."""
    push(artifact, ADDRESS, hub=hub)
    change = Fault(
        "GET /storage", "meanwhile", action=lambda: altered(cached(hub, "kfac.json"))
    )
    server.store.faults.append(change)
    pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)


def test_a_registry_that_changes_meanwhile_is_noticed(
    artifact: Path, tmp_path: Path
) -> None:
    from kfac_artifacts.hub.artifact_files import Origin, receive

    origin = Origin(str(artifact), str(artifact), "0" * 64)
    with pytest.raises(FormatError, match="changed while it was being read"):
        receive(artifact, tmp_path / "copy", origin)
    assert not (tmp_path / "copy").exists()


def test_offline_what_is_not_in_the_cache_is_said_to_be_so(
    hub: Hub, pinned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(write_artifact(tmp_path / "other", seed=1), "hf://owner/kfac/qnli", hub=hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for address in ("hf://owner/kfac/qnli", f"hf://owner/kfac/qnli@{pinned[-40:]}"):
        with pytest.raises(ConnectionFailed) as caught:
            pull(address, tmp_path / "copy", hub=hub)
        assert f"{address} is not in the cache {hub.cache}" in str(caught.value)
        assert "HF_HUB_OFFLINE forbids" in str(caught.value)
    assert not pull(pinned, tmp_path / "copy", hub=hub).stale
