"""Task vectors are pushed and pulled as artifacts are."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import kfac_artifacts as kfac
from kfac_artifacts.errors import FormatError, PlaceError
from kfac_artifacts.hub import Hub, pull, push
from kfac_artifacts.registry import pull_locked, take, write_lock
from tests.artifacts import provenance
from tests.commands import good
from tests.hub.conftest import Made, contents
from tests.hub.wire import Server

SHAPES = {"l.weight": (2, 3), "l.bias": (2,)}


def write_vector(path: Path, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tau = {n: torch.randn(*s, generator=generator) for n, s in SHAPES.items()}
    head = kfac.ClassifierHead(torch.eye(2), ("one", "two"), 1.0)
    settings = {
        "data": {"id": "my|tickets"},
        "curvature": [{"data": "org/mails", "size": 7, "digest": "sha256:" + "0" * 64}],
    }
    base = provenance(SHAPES, base="org/encoder").base
    kfac.TaskVector(tau, base, None, head, settings).save(path)
    return path


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return write_vector(tmp_path / "tau")


@pytest.mark.parametrize("where", ["hf://owner/taus/mine", "hf://owner/taus", "here"])
def test_what_is_pushed_is_pulled_bit_by_bit(
    hub: Hub, vector: Path, tmp_path: Path, where: str
) -> None:
    place = str(tmp_path / "registry" / "mine") if where == "here" else where
    pushed = push(vector, place, hub=hub)
    pulled = pull(pushed.reference, tmp_path / "copy", hub=hub)
    assert pulled.digest == pushed.digest
    assert contents(tmp_path / "copy") == contents(vector)
    assert kfac.TaskVector.load(tmp_path / "copy").sha256
    assert not push(vector, place, hub=hub).changed


def test_its_card_names_base_model_and_curvature(
    hub: Hub, server: Server, vector: Path
) -> None:
    push(vector, "hf://owner/taus", license="mit", hub=hub)
    card = server.store.repos["owner/taus"].head["README.md"].content.decode()
    assert 'base_model: "org/encoder"' in card
    assert '"task-vector"' in card
    assert "| `org/mails` | 7 | `sha256:000" in card
    assert "`my/tickets`" in card  # no column of its own


def test_damage_is_refused_before_pushing_and_after_pulling(
    hub: Hub, vector: Path, tmp_path: Path
) -> None:
    push(vector, tmp_path / "place")
    for directory in (vector, tmp_path / "place"):
        file = directory / "task_vector.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(FormatError, match="damaged or changed"):
        push(vector, "hf://owner/taus", hub=hub)
    with pytest.raises(FormatError, match="damaged or changed"):
        pull(tmp_path / "place", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_one_does_not_take_the_place_of_another_in_silence(
    vector: Path, made: Made, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    first = push(vector, place)
    for other in (write_vector(tmp_path / "other", 1), made(0)):
        with pytest.raises(PlaceError, match="holds another"):
            push(other, place)
    push(tmp_path / "other", place, replace=True)
    assert pull(first.reference, tmp_path / "copy").digest == first.digest


def test_the_commands_take_them(
    hub: Hub,
    server: Server,
    vector: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    end = ("--endpoint", server.url)
    good("push", vector, "hf://owner/taus/mine", *end)
    good("pull", "owner/taus/mine", "--lock", "kfac.lock", *end)
    assert contents(tmp_path / "mine") == contents(vector)


def test_a_lock_names_them(hub: Hub, vector: Path, tmp_path: Path) -> None:
    push(vector, "hf://owner/taus", hub=hub)
    write_lock(tmp_path / "kfac.lock", take("owner/taus", tmp_path / "a", hub=hub))
    assert pull_locked(tmp_path / "kfac.lock", hub=hub)[0].size == 0
    (tmp_path / "a" / "task_vector.safetensors").write_bytes(b"")
    with pytest.raises(FormatError):
        pull_locked(tmp_path / "kfac.lock", hub=hub)
