"""Room among the files of the system: cleared away, also after who was killed."""

import tempfile
import time
from pathlib import Path

import pytest

from kfac_artifacts.hub import Hub
from kfac_artifacts.places import room_for
from kfac_artifacts.registry import open_registry
from tests.running import Process

HOLD = """
import sys, time
from pathlib import Path
from kfac_artifacts.places import room_for
with room_for("kfac-total") as room:
    (room / "half").write_bytes(bytes(9))
    print(room, flush=True)
    time.sleep(300)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def rooms(temporary: Path) -> list[str]:
    return [path.name for path in temporary.iterdir() if path.name.startswith("kfac-")]


@pytest.mark.processes
def test_the_room_of_who_was_killed_is_cleared_and_no_other(temporary: Path) -> None:
    others = ["kfac-total-of-mine", "kfac-total", "kfac-check-abcd1234", "else"]
    for name in others:
        (temporary / name).mkdir()
    before = set(rooms(temporary))
    with Process(["-c", HOLD]) as held:
        while not list(temporary.glob("kfac-total-*/half")):
            assert held.poll() is None, held.said
            time.sleep(0.01)
        with room_for("kfac-total") as own:  # while the other one lives
            assert set(rooms(temporary)) - before >= {own.name}
            assert list(temporary.glob("kfac-total-*/half"))
    with room_for("kfac-total") as own:
        assert set(rooms(temporary)) == before | {own.name}
    assert set(rooms(temporary)) == before


def test_a_registry_on_the_hub_clears_up_before_and_after(temporary: Path) -> None:
    left = temporary / "kfac-registry-abcd1234"
    (left / "artifact").mkdir(parents=True)
    registry = open_registry("hf://owner/registry", hub=Hub("http://127.0.0.1:9"))
    (own,) = rooms(temporary)
    assert own != left.name
    del registry
    assert rooms(temporary) == []


def test_a_link_in_the_place_of_a_room_leads_nowhere(temporary: Path) -> None:
    (temporary / "mine").mkdir()
    (temporary / "mine" / "file").touch()
    Path(temporary / "kfac-check-abcd1234").symlink_to(temporary / "mine")
    with room_for("kfac-check"):
        pass
    assert (temporary / "mine" / "file").exists()
