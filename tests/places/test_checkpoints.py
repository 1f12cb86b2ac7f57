"""A checkpoint belongs to one living run."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.format.checkpoint import Checkpoint, State
from kfac_artifacts.places import checkpoint_beside, claimed, hold
from tests.places.surroundings import file_size_limit, mounted, somebody_else

HOLDING = """
import sys
from kfac_artifacts.places import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Any]:
    """A checkpoint that another process holds, and that process."""
    path = tmp_path / "a.checkpoint"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield path, process
        process.kill()


def test_a_living_run_keeps_its_checkpoint_and_a_dead_one_nothing(held: Any) -> None:
    path, process = held
    for _ in range(2):
        with pytest.raises(PlaceError, match=f"another run .process {process.pid} on"):
            claimed(path.with_suffix("")).__enter__()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with claimed(path.with_suffix("")) as found:
        assert found == path
        (path / "step").touch()  # something that is kept
    assert [p.name for p in path.iterdir()] == ["step"]


def test_nothing_is_left_of_a_run_that_kept_nothing(tmp_path: Path) -> None:
    with hold(tmp_path / "new" / "a.checkpoint"), hold(tmp_path / "new/a.checkpoint"):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_thread_is_another_run(tmp_path: Path) -> None:
    found = []

    def other() -> None:
        try:
            with hold(tmp_path / "c"):
                pass
        except PlaceError as error:
            found.append(str(error))

    with hold(tmp_path / "c"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert f"process {os.getpid()} " in found[0]


def test_the_checkpoint_stands_beside_the_output_or_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert checkpoint_beside("a") == Path("a.checkpoint")
    assert checkpoint_beside(".") == tmp_path.with_name(f"{tmp_path.name}.checkpoint")
    assert checkpoint_beside("link") == tmp_path / "real.checkpoint"
    with mounted(tmp_path / "m", "-t", "tmpfs", "tmpfs") as place:
        with claimed(place) as checkpoint:
            assert checkpoint == place / ".kfac.checkpoint"
        with claimed(place):  # what is kept there does not make the place taken
            (place / ".kfac.checkpoint" / "step").touch()
        with claimed(place):
            pass


def test_a_checkpoint_that_cannot_be_written_is_refused_at_once(
    open_place: Path,
) -> None:
    with somebody_else():
        (open_place / "a.checkpoint").write_text("mine")
        with pytest.raises(PlaceError, match="cannot be written"):
            claimed(open_place / "a").__enter__()


def test_neither_output_nor_checkpoint_may_be_an_input(tmp_path: Path) -> None:
    (tmp_path / "a.checkpoint").mkdir()
    with pytest.raises(PlaceError, match="is the input"):
        claimed(tmp_path / "a", inputs=[tmp_path / "a.checkpoint"]).__enter__()


def test_a_full_disk_leaves_the_state_before(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", {"x": 1}, "begin afresh")
    checkpoint.save(State(1, {"x": torch.ones(3)}))
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        checkpoint.save(State(2, {"x": torch.ones(1000)}))
    found = checkpoint.load()
    assert found is not None
    assert found.step == 1
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_state_of_the_same_step_of_another_stage_takes_its_place(
    tmp_path: Path,
) -> None:
    checkpoint = Checkpoint(tmp_path / "c", {"x": 1}, "begin afresh")
    for value in (1.0, 2.0):
        checkpoint.save(State(1, {"x": torch.full((3,), value)}))
    found = checkpoint.load()
    assert found is not None
    assert found.tensors["x"].tolist() == [2.0, 2.0, 2.0]
