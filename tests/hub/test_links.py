"""What a link leads to is not published, wherever the link stands."""

import os
from pathlib import Path

import pytest

from kfac_artifacts.errors import FormatError
from kfac_artifacts.hub import Hub, pull, push
from tests.hub.conftest import contents, write_artifact
from tests.hub.wire import Server

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "id_rsa"
    path.write_bytes(SECRET)
    return path


def published(server: Server) -> bytes:
    blobs = [
        blob.content
        for repo in server.store.repos.values()
        for files in repo.commits.values()
        for blob in files.values()
    ]
    return b"".join([*blobs, *server.store.large.values()])


def replaced_by_link(artifact: Path, name: str, target: Path) -> None:
    (artifact / name).unlink(missing_ok=True)
    (artifact / name).symlink_to(target)


@pytest.mark.parametrize("name", ["README.md", "kfac.json", "pulled.json"])
@pytest.mark.parametrize("destination", ["hf://owner/kfac", "registry"])
def test_no_link_is_followed_by_a_push(
    server: Server,
    hub: Hub,
    artifact: Path,
    secret: Path,
    tmp_path: Path,
    name: str,
    destination: str,
) -> None:
    replaced_by_link(artifact, name, secret)
    place = destination if "://" in destination else str(tmp_path / destination)
    with pytest.raises(FormatError, match=rf"{name} is a link, which is not followed"):
        push(artifact, place, hub=hub)
    assert SECRET not in published(server)
    assert not (tmp_path / "registry").exists()


def test_a_dangling_link_is_named(artifact: Path, tmp_path: Path, hub: Hub) -> None:
    replaced_by_link(artifact, "README.md", tmp_path / "nothing")
    with pytest.raises(FormatError, match=r"README\.md is a link"):
        push(artifact, "hf://owner/kfac", hub=hub)


@pytest.mark.parametrize("name", ["README.md", "kfac.json"])
def test_a_pipe_is_named_and_not_waited_for(
    artifact: Path, hub: Hub, name: str
) -> None:
    (artifact / name).unlink(missing_ok=True)
    os.mkfifo(artifact / name)
    with pytest.raises(FormatError, match=f"{name} is a pipe"):
        push(artifact, "hf://owner/kfac", hub=hub)


@pytest.mark.parametrize("name", ["README.md", "kfac.json"])
def test_no_link_is_followed_by_a_pull_from_a_directory(
    artifact: Path, secret: Path, tmp_path: Path, name: str
) -> None:
    if name == "kfac.json":
        secret.write_bytes((artifact / name).read_bytes())
    replaced_by_link(artifact, name, secret)
    with pytest.raises(FormatError, match=f"{name} is a link"):
        pull(str(artifact), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_link_at_the_destination_is_not_read(
    artifact: Path, secret: Path, tmp_path: Path
) -> None:
    place = write_artifact(tmp_path / "registry", seed=1)
    replaced_by_link(place, "README.md", secret)
    with pytest.raises(FormatError, match=r"README\.md is a link"):
        push(artifact, str(place))


def test_tensors_on_another_disk_are_published_by_their_hash(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    before = contents(artifact)
    (artifact / "factors.safetensors").rename(tmp_path / "big-disk.safetensors")
    replaced_by_link(artifact, "factors.safetensors", tmp_path / "big-disk.safetensors")
    pushed = push(artifact, "hf://owner/kfac", hub=hub)
    pull(pushed.reference, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == before


def test_a_link_of_tensors_to_other_bytes_is_refused(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    content = (artifact / "factors.safetensors").read_bytes()
    other = tmp_path / "other"
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    replaced_by_link(artifact, "factors.safetensors", other)
    with pytest.raises(FormatError, match=r"factors\.safetensors was damaged"):
        push(artifact, "hf://owner/kfac", hub=hub)
    assert server.store.requests == []


def test_an_artifact_may_be_named_by_a_link(
    hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "latest").symlink_to(artifact)
    assert push(tmp_path / "latest", "hf://owner/kfac", hub=hub).changed
