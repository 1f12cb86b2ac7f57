"""Training that is interrupted goes on to the same files."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kfac_artifacts.errors import FormatError, MismatchError, PlaceError
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import PenaltySettings, TrainingProgress
from tests.running import PATIENCE, Process, finish
from tests.tiny_task import train_tiny

FILES = ("task_vector.json", "task_vector.safetensors")


def _stop_at(step: int) -> Callable[[TrainingProgress], None]:
    def report(progress: TrainingProgress) -> None:
        if progress.step == step and not progress.resumed:
            raise KeyboardInterrupt

    return report


def _assert_same_files(a: Path, b: Path) -> None:
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_interrupted_training_goes_on_to_the_same_files(tmp_path: Path) -> None:
    train_tiny(output=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=tmp_path / "cut", report=_stop_at(70))
    assert not (tmp_path / "cut").exists()
    seen: list[TrainingProgress] = []
    train_tiny(output=tmp_path / "cut", resume=True, report=seen.append)
    assert (seen[0].step, seen[0].resumed) == (50, True)
    assert not (tmp_path / "cut.checkpoint").exists()
    _assert_same_files(tmp_path / "whole", tmp_path / "cut")


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "tau"
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=output, report=_stop_at(60))
    changes = {"learning_rate": 0.01, "penalty": PenaltySettings(2.0)}
    with pytest.raises(MismatchError) as error:
        train_tiny(output=output, resume=True, **changes)
    assert "learning_rate was 0.02, is 0.01" in str(error.value)
    assert "lam was 1.0, is 2.0" in str(error.value)
    assert "begin without --resume" in str(error.value)
    train_tiny(output=output, **changes)
    assert TaskVector.load(output).settings["lam"] == 2.0
    assert not (tmp_path / "tau.checkpoint").exists()


def test_what_happens_to_a_checkpoint_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "tau"
    train_tiny(output=output, steps=1, resume=True)
    assert "tau.checkpoint to go on from; beginning" in caplog.text
    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=tmp_path / "new", report=_stop_at(60))
    assert not caplog.text
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=tmp_path / "new", report=_stop_at(1))
    assert "beginning afresh, although" in caplog.text
    assert "--resume goes on" in caplog.text
    caplog.clear()
    seen: list[TrainingProgress] = []
    train_tiny(output=tmp_path / "new", resume=True, report=seen.append)
    assert seen[0].step == 50  # what was there stays until there is more
    assert not caplog.text


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "tau"
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=output, report=_stop_at(60))
    file = tmp_path / "tau.checkpoint" / "step-50.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match="is damaged"):
        train_tiny(output=output, resume=True)


def test_taken_output_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "tau").mkdir()
    (tmp_path / "tau" / "file").touch()
    with pytest.raises(PlaceError, match="exists already"):
        train_tiny(output=tmp_path / "tau")


SCRIPT = """
import sys, time
from pathlib import Path
from tests.tiny_task import train_tiny

def report(progress):
    if len(sys.argv) > 2 and progress.step > 60:
        time.sleep(600)  # to be killed here

train_tiny(output=Path(sys.argv[1]), resume=True, report=report)
"""


@pytest.mark.processes
def test_killed_training_goes_on_to_the_same_files(tmp_path: Path) -> None:
    def run(*arguments: str) -> Process:
        return Process(["-c", SCRIPT, *arguments])

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    with run(str(cut), "to be killed") as victim:
        # a process of its own, too: other numbers of threads may round otherwise
        ((status, _, stderr),) = finish([run(str(whole))])
        assert status == 0, stderr
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "cut.checkpoint" / "checkpoint.json").exists():
            assert time.monotonic() < deadline
            assert victim.poll() is None
            time.sleep(0.05)
    assert victim.poll() == -signal.SIGKILL
    ((status, _, stderr),) = finish([run(str(cut))])
    assert status == 0, stderr
    _assert_same_files(whole, cut)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "whole"]
