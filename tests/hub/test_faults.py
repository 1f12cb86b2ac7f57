"""Every fault at every request: one line, or success once the fault has passed."""

from dataclasses import replace
from pathlib import Path

import pytest

from kfac_artifacts.errors import ConnectionFailed, KfacError
from kfac_artifacts.hub import Hub, client_output, pull, push
from tests.hub.conftest import contents
from tests.hub.faults import FAULTS, PULL, PUSH, fault
from tests.hub.wire import Server

ADDRESS = "hf://owner/kfac/mnli@draft"


def said(error: KfacError) -> str:
    """What an error says: one line that a terminal shows as it is."""
    message = str(error)
    assert message.isprintable(), message
    assert "hf_owner" not in message
    assert len(message) < 900
    return message


@pytest.mark.parametrize("name", PUSH)
def test_a_push_through_every_fault(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path, name: str
) -> None:
    for number, kind in enumerate(FAULTS):
        address = f"hf://owner/kfac-{number}/mnli@draft"
        repo_name = f"owner/kfac-{number}"
        server.store.large.clear()
        server.store.faults = [fault(PUSH[name], kind)]
        try:
            with client_output(bars=False):
                pushed = push(artifact, address, hub=replace(hub, retries=0))
        except KfacError as error:
            said(error)
            assert isinstance(error, ConnectionFailed) or kind == "flip", kind
        else:
            assert stands(server, repo_name, pushed.reference, artifact), kind
        once = fault(PUSH[name], kind, times=1)
        server.store.faults = [once]
        with client_output(bars=False):
            pushed = push(artifact, address, hub=hub)
        assert stands(server, repo_name, pushed.reference, artifact), kind
        assert pushed.tag in server.store.repos[repo_name].tags, kind


def stands(server: Server, repo: str, reference: str, artifact: Path) -> bool:
    files = server.store.repos[repo].commits[reference.rpartition("@")[2]]
    stored = {path: blob.content for path, blob in files.items()}
    wanted = {f"mnli/{name}": c for name, c in contents(artifact).items()}
    return wanted.items() <= stored.items()


@pytest.mark.parametrize("name", PULL)
def test_a_pull_through_every_fault(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path, name: str
) -> None:
    push(artifact, ADDRESS, hub=hub)
    for number, kind in enumerate(FAULTS):
        place = tmp_path / f"copy-{number}"
        server.store.faults = [fault(PULL[name], kind)]
        fresh = replace(hub, cache_dir=tmp_path / f"cache-{number}")
        try:
            with client_output(bars=False):
                pull(ADDRESS, place, hub=replace(fresh, retries=0))
        except KfacError as error:
            said(error)
            assert not place.exists(), kind
        else:
            assert contents(place) == contents(artifact), kind
        server.store.faults = [fault(PULL[name], kind, times=1)]
        with client_output(bars=False):
            pull(ADDRESS, place, replace=True, hub=fresh)
        assert contents(place) == contents(artifact), kind
    assert not Path("/tmp/kfac-out").exists()
    assert server.store.leaks == []
