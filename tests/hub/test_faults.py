"""Every fault at every request: one line, or success once the fault has passed.

A thirteenth of all pairs is tried, each fault and each request in several; the
environment variable ``KFAC_ALL_FAULTS`` asks for all of them.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kfac_artifacts.errors import ConnectionFailed, KfacError
from kfac_artifacts.hub import Hub, client_output, pull, push
from kfac_artifacts.hub.result import Pushed
from tests.hub.conftest import contents
from tests.hub.faults import FAULTS, OUTSIDE, PULL, PUSH, fault
from tests.hub.wire import Server

ADDRESS = "hf://owner/kfac/mnli@draft"
EVERY = 1 if os.environ.get("KFAC_ALL_FAULTS") else 13


def pairs(requests: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (name, kind)
        for i, name in enumerate(requests)
        for j, kind in enumerate(FAULTS)
        if (3 * i + j) % EVERY == 0
    ]


def is_told(error: KfacError) -> bool:
    """Whether an error is one line that a terminal shows as it is."""
    message = str(error)
    return message.isprintable() and "hf_owner" not in message and len(message) < 900


def stands(server: Server, pushed: Pushed, artifact: Path) -> bool:
    files = server.store.repos["owner/kfac"].commits[pushed.reference[-40:]]
    stored = {path: blob.content for path, blob in files.items()}
    wanted = {f"mnli/{name}": c for name, c in contents(artifact).items()}
    return wanted.items() <= stored.items()


@pytest.mark.parametrize(("name", "kind"), pairs(PUSH))
def test_a_push_through_a_fault(
    server: Server, hub: Hub, artifact: Path, name: str, kind: str
) -> None:
    server.store.faults = [fault(PUSH[name], kind)]
    error = None
    with client_output(bars=False):
        try:
            pushed = push(artifact, ADDRESS, hub=replace(hub, retries=0))
        except KfacError as raised:
            error = raised
    if error is None:
        assert stands(server, pushed, artifact)
    else:
        assert is_told(error)
        assert isinstance(error, ConnectionFailed)
    server.store.faults = [fault(PUSH[name], kind, times=1)]
    with client_output(bars=False):
        pushed = push(artifact, ADDRESS, hub=hub)
    assert stands(server, pushed, artifact)
    assert pushed.tag in server.store.repos["owner/kfac"].tags


@pytest.mark.parametrize(("name", "kind"), pairs(PULL))
def test_a_pull_through_a_fault(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path, name: str, kind: str
) -> None:
    push(artifact, ADDRESS, hub=hub)
    place = tmp_path / "copy"
    server.store.faults = [fault(PULL[name], kind)]
    error = None
    with client_output(bars=False):
        try:
            pull(ADDRESS, place, hub=replace(hub, retries=0))
        except KfacError as raised:
            error = raised
    if error is None:
        assert contents(place) == contents(artifact)
    else:
        assert is_told(error)
        assert not place.exists()
    server.store.faults = [fault(PULL[name], kind, times=1)]
    with client_output(bars=False):
        pull(ADDRESS, place, replace=True, hub=hub)
    assert contents(place) == contents(artifact)
    assert server.store.leaks == []
    assert not OUTSIDE.exists()
