"""Tokens, addresses of Hubs and networks that cannot work: one line each."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from kfac_artifacts.errors import (
    AccessError,
    AddressError,
    ConnectionFailed,
    RegistryError,
)
from kfac_artifacts.hub import Hub, pull, push
from tests.hub.conftest import contents
from tests.hub.store import Fault
from tests.hub.wire import Server

ADDRESS = "hf://owner/kfac"


@pytest.mark.parametrize("token", ["hf_öäü", "hf_a b", "hf_“x”", "hf_\x07", "hf_ x"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(AccessError, match="the token has") as caught:
        push(artifact, ADDRESS, hub=hub)
    assert token not in str(caught.value)


@pytest.mark.parametrize("token", ["hf_owner\n", "  hf_owner ", "hf_\nowner"])
def test_a_line_break_of_copying_does_no_harm(
    hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert push(artifact, ADDRESS, hub=hub).changed


@pytest.mark.parametrize("token", ["", "  ", "\n"])
def test_an_empty_token_is_none(
    hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(AccessError, match="log in with `hf auth login`"):
        push(artifact, ADDRESS, hub=hub)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_login_that_cannot_be_read_is_named(
    hub: Hub,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    token = tmp_path / "token"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(token))
    if content is None:
        token.mkdir()
    else:
        token.write_bytes(content)
    with pytest.raises(AccessError, match=f"the token in {token} cannot be read"):
        push(artifact, ADDRESS, hub=hub)


@pytest.mark.parametrize(
    "endpoint",
    [
        "huggingface.co",
        "localhost:8080",
        "ftp://huggingface.co",
        "http://",
        "https://hub example",
        "http://[::1",
        "http://host:port",
        "https://hub.example?x=1",
        "https://hübsch.example",
        "http://host\n.example",
    ],
)
def test_what_is_no_url_is_no_endpoint(
    hub: Hub, tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AddressError, match="is no URL of a Hub") as caught:
        pull(ADDRESS, tmp_path / "copy", hub=replace(hub, endpoint=endpoint))
    assert str(caught.value).isprintable()
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(AddressError, match="is no URL of a Hub"):
        pull(ADDRESS, tmp_path / "copy", hub=replace(hub, endpoint=None))


def test_a_slash_behind_an_endpoint_does_no_harm(
    hub: Hub, artifact: Path, server: Server
) -> None:
    assert push(artifact, ADDRESS, hub=replace(hub, endpoint=f"{server.url}//")).changed


def test_a_push_offline_says_what_forbids_it(
    hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionFailed, match="HF_HUB_OFFLINE forbids to ask") as said:
        push(artifact, ADDRESS, hub=hub)
    assert "cache" not in str(said.value)


def test_a_certificate_that_is_none_is_said(
    hub: Hub, server: Server, tmp_path: Path
) -> None:
    secure = replace(hub, endpoint=server.url.replace("http:", "https:"))
    with pytest.raises(ConnectionFailed, match=r"cannot be reached \(\[SSL"):
        pull(ADDRESS, tmp_path / "copy", hub=secure)


def test_a_renamed_repository_is_followed(
    hub: Hub, server: Server, artifact: Path, tmp_path: Path
) -> None:
    push(artifact, "hf://owner/new", hub=hub)
    server.store.renamed["owner/old"] = "owner/new"
    pull("hf://owner/old", tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)
    pushed = push(artifact, "hf://owner/old/mnli", hub=hub)
    stored = server.store.repos["owner/new"].commits[pushed.reference[-40:]]
    assert stored["mnli/kfac.json"].content == (artifact / "kfac.json").read_bytes()


def test_a_signed_link_that_expired_is_asked_for_again(
    hub: Hub, server: Server, artifact: Path, tmp_path: Path
) -> None:
    push(artifact, ADDRESS, hub=hub)
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message>"
    expired = Fault("GET /storage", "instead", times=1, status=403, body=body)
    server.store.faults.append(expired)
    pull(ADDRESS, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)
    assert server.store.count("HEAD .*safetensors") == 2
    expired.times = 10**9
    fresh = replace(hub, cache_dir=tmp_path / "fresh")
    with pytest.raises(ConnectionFailed, match=r"403 .*check this machine's clock"):
        pull(ADDRESS, tmp_path / "other", hub=fresh)


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("7", 7, 8), ("86400", 60, 70), ("soon", 0, 1), ("9" * 400, 60, 70), ("-5", 0, 1)],
)
def test_a_server_is_waited_for_within_bounds(
    hub: Hub,
    server: Server,
    artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    least: float,
    most: float,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    limited = Fault(
        "GET .*/tree/", "status", times=1, status=429, headers={"Retry-After": asked}
    )
    server.store.faults.append(limited)
    push(artifact, ADDRESS, hub=hub)
    (pause,) = [pause for pause in pauses if pause]
    assert least <= pause <= most


def test_a_branch_that_is_deleted_meanwhile_is_said(
    hub: Hub, server: Server, artifact: Path
) -> None:
    def delete() -> None:
        server.store.repos["owner/kfac"].branches.pop("draft", None)

    server.store.faults.append(Fault("POST .*/commit/", "meanwhile", action=delete))
    with pytest.raises(RegistryError, match="no branch, tag or commit 'draft'"):
        push(artifact, f"{ADDRESS}@draft", hub=hub)
