"""A fresh Hub, cache and token for every test, and small artifacts."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from kfac_artifacts.artifact import DataInfo, NamedConfig
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.hub import Hub
from tests.artifacts import artifact as of_task, provenance, small
from tests.hub.server import running
from tests.hub.wire import Server

Made = Callable[[int], Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Write the artifact of the task ``dataN``, once."""

    def make(number: int) -> Path:
        place = tmp_path / f"data{number}"
        if not place.exists():
            save_artifact(of_task(number, 100 + number), place, storage="float32")
        return place

    return make


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody sleep long: the client waits for seconds of its own."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.005)))


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return Hub(server.url, cache_dir=tmp_path / "cache", retries=2, wait=0.01)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "artifact")


def write_artifact(
    path: Path, *, seed: int = 0, dim: int = 5, shard_bytes: int = 10**9
) -> Path:
    """Write an artifact of one linear map and one vector."""
    made = small((dim, 3, 4), seed)
    data = DataInfo("org/texts", None, "train", "0" * 64, 8, 100, NamedConfig("text"))
    shapes = made.provenance.base.shapes
    info = provenance(shapes, data, "org/encoder", "1" * 40, seed)
    made = replace(made, provenance=info)
    save_artifact(made, path, storage="float32", max_shard_bytes=shard_bytes)
    return path


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of an artifact but its card, with the picture, and its origin."""
    left_out = {"README.md", "spectra.svg", "pulled.json"}
    files = (f for f in directory.iterdir() if f.name not in left_out)
    return {file.name: file.read_bytes() for file in files}
