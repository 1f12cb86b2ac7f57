"""Every error of the client becomes one sentence that says what to do."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from kfac_artifacts.errors import AccessError, ConnectionFailed, RegistryError
from kfac_artifacts.hub import Hub, pull, push
from tests.hub.store import Fault
from tests.hub.wire import Server

ADDRESS = "hf://owner/kfac"


@pytest.fixture
def published(server: Server, hub: Hub, artifact: Path) -> Server:
    push(artifact, ADDRESS, hub=hub)
    return server


def fails_to_pull(hub: Hub, tmp_path: Path, address: str = ADDRESS) -> RegistryError:
    """Pull, and return the error, which must be one line without the token."""
    with pytest.raises(RegistryError) as caught:
        pull(address, tmp_path / "copy", hub=hub)
    message = str(caught.value)
    assert "\n" not in message
    assert "hf_" not in message
    assert not (tmp_path / "copy").exists()
    return caught.value


def log_in(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)


def test_a_gated_repository_without_login(
    published: Server, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.store.repos["owner/kfac"].gated = True
    log_in(monkeypatch, None)
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, AccessError)
    assert "restricted; log in" in str(error)
    assert f"ask for it at {published.url}/owner/kfac" in str(error)


def test_a_gated_repository_with_login(
    published: Server, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.store.repos["owner/kfac"].gated = True
    log_in(monkeypatch, "hf_stranger")
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, AccessError)
    assert f"restricted; ask for it at {published.url}" in str(error)


@pytest.mark.parametrize("token", [None, "hf_stranger"])
def test_a_private_repository_of_somebody_else(
    published: Server,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
) -> None:
    published.store.repos["owner/kfac"].private = True
    log_in(monkeypatch, token)
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, AccessError) == (token is None)
    assert "or it is private" in str(error)
    assert "hf auth login" in str(error)


def test_a_repository_that_does_not_exist(
    published: Server, hub: Hub, tmp_path: Path
) -> None:
    error = fails_to_pull(hub, tmp_path, "hf://owner/kfaq")
    assert "no model repository owner/kfaq" in str(error)


def test_a_revision_that_does_not_exist(
    published: Server, hub: Hub, tmp_path: Path
) -> None:
    (tag,) = published.store.repos["owner/kfac"].tags
    error = fails_to_pull(hub, tmp_path, f"{ADDRESS}@v2")
    assert f"no branch, tag or commit 'v2'; it has main, {tag}" in str(error)


def test_a_commit_that_does_not_exist(
    published: Server, hub: Hub, tmp_path: Path
) -> None:
    error = fails_to_pull(hub, tmp_path, f"{ADDRESS}@{'0' * 40}")
    assert "no branch, tag or commit '0000" in str(error)


def test_a_folder_without_an_artifact(
    published: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    push(artifact, f"{ADDRESS}/mnli", hub=hub)
    error = fails_to_pull(hub, tmp_path, f"{ADDRESS}/qnli")
    assert "holds no KFAC artifact" in str(error)
    assert "artifacts at hf://owner/kfac, hf://owner/kfac/mnli" in str(error)


def test_a_token_that_is_not_valid(
    published: Server, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, "hf_wrong")
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, AccessError)
    assert "token was not accepted" in str(error)
    assert "HF_TOKEN goes before the login" in str(error)


@pytest.mark.parametrize("token", ["hf_reader", "hf_stranger"])
def test_a_token_that_may_not_write(
    published: Server,
    hub: Hub,
    artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
) -> None:
    log_in(monkeypatch, token)
    with pytest.raises(AccessError, match="token may not do this"):
        push(artifact, ADDRESS, hub=hub)


def test_no_token_at_all(
    server: Server, hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, None)
    with pytest.raises(AccessError, match="log in with `hf auth login`"):
        push(artifact, ADDRESS, hub=hub)


def test_a_hub_that_is_overloaded(published: Server, hub: Hub, tmp_path: Path) -> None:
    published.store.faults.append(
        Fault("GET /api", "status", message="too\nbusy\x1b[1m")
    )
    asked = published.store.count("GET /api/models/owner/kfac$")
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert "answered 503" in str(error)
    assert "too busy" in str(error)
    assert "request request-" in str(error)
    assert "\x1b" not in str(error)
    assert published.store.count("GET /api/models/owner/kfac$") - asked == (
        hub.retries + 1
    )


def test_a_hub_that_limits_the_rate(
    published: Server, hub: Hub, tmp_path: Path
) -> None:
    published.store.faults.append(
        Fault("GET /api", "status", status=429, headers={"Retry-After": "0"})
    )
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert "answered 429" in str(error)
    assert "wait a while and try again" in str(error)


def test_a_mirror_that_takes_no_uploads(
    server: Server, hub: Hub, artifact: Path
) -> None:
    refused = Fault("POST /api/repos/create", "status", status=405)
    server.store.faults.append(refused)
    with pytest.raises(RegistryError, match=r"a mirror .* name the Hub itself with"):
        push(artifact, ADDRESS, hub=hub)


def test_storage_that_fails(published: Server, hub: Hub, tmp_path: Path) -> None:
    published.store.faults.append(Fault("GET /storage", "status"))
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert published.store.count("GET /storage") == hub.retries + 1


def test_files_that_are_always_cut_short(
    published: Server, hub: Hub, tmp_path: Path
) -> None:
    published.store.faults.append(Fault("GET /storage", "short"))
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert "transfer of hf://owner/kfac failed" in str(error)
    assert "force_download" not in str(error)


def test_a_connection_that_is_always_dropped(
    published: Server, hub: Hub, tmp_path: Path
) -> None:
    published.store.faults.append(Fault("GET /api", "drop"))
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert "broke off repeatedly" in str(error)


def test_an_endpoint_that_nobody_serves(hub: Hub, tmp_path: Path) -> None:
    error = fails_to_pull(replace(hub, endpoint="http://127.0.0.1:9"), tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert "http://127.0.0.1:9 cannot be reached" in str(error)
    assert "--endpoint" in str(error)


def test_offline_without_a_cache(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert f"not in the cache {hub.cache}" in str(error)
    assert "HF_HUB_OFFLINE forbids to ask" in str(error)


def test_offline_with_a_part_of_the_cache(
    published: Server, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(ADDRESS, tmp_path / "first", hub=hub)
    for file in hub.cache.rglob("snapshots/*/factors.safetensors"):
        file.resolve().unlink()
        file.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = fails_to_pull(hub, tmp_path)
    assert isinstance(error, ConnectionFailed)
    assert "HF_HUB_OFFLINE" in str(error)


def test_a_tag_that_exists_by_the_time_it_is_set(
    published: Server, hub: Hub, artifact: Path
) -> None:
    published.store.faults.append(
        Fault("POST .*/tag/", "status", status=409, message="Tag v1 already exists")
    )
    with pytest.raises(RegistryError, match=r"exists.*choose another name or tag"):
        push(artifact, ADDRESS, tag="v1", hub=hub)


def test_a_disk_without_room(
    published: Server, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = shutil.disk_usage, shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: full if path == tmp_path else real(path)
    )
    with pytest.raises(RegistryError, match=f"bytes, but {tmp_path} has only 0 free"):
        pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert published.store.count("GET /storage") == 0
