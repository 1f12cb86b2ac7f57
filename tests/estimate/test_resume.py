"""An estimation that was interrupted goes on to the very same numbers."""

import json
import random
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.errors import FormatError, MismatchError
from kfac_artifacts.estimate import ComputeOptions, KfacReduce, checkpointing, discard
from tests.computed import COMPUTE
from tests.estimate.processes import KFAC, PLAIN, finish, start
from tests.running import PATIENCE

pytestmark = pytest.mark.processes


class InterruptedRunError(Exception):
    """Stands for anything that ends a run."""


def interrupting(after: Any) -> Any:
    """Progress that raises after so many batches, of all stages together."""
    left = [after]

    def progress(stage: Any, total: Any) -> Any:
        def advance(count: int) -> None:
            left[0] -= count > 0
            if left[0] < 0:
                raise InterruptedRunError

        return nullcontext(advance)

    return progress


def stage_of(path: Path) -> Any:
    manifest = json.loads((path / "checkpoint.json").read_text())
    return manifest["details"]["stage"], manifest["step"]


def assert_equal(found: Any, expected: Any) -> None:
    assert found.blocks == expected.blocks
    assert found.provenance == expected.provenance
    assert set(found.factors) == set(expected.factors)
    for name, factor in expected.factors.items():
        assert torch.equal(found.factors[name].to_dense(), factor.to_dense()), name


@pytest.mark.parametrize(
    ("name", "after", "stage"),
    [
        ("kfac", 1, ("summing up", 2)),
        ("kfac", 3, ("summing up", 6)),
        ("reduce", 2, ("summing up", 4)),
        ("experts", 2, ("summing up", 4)),
        ("nearest", 3, ("summing up", 6)),
        ("diagonal", 3, ("summing up", 6)),
        ("inputs", 3, ("summing up", 6)),
        ("ekfac", 3, ("summing up", 6)),
        ("ekfac-groups", 9, ("refining", None)),
        ("groups", 11, ("refining", None)),
        ("groups", 13, ("refining", None)),
    ],
)
def test_interrupted_runs_go_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: Any, stage: Any
) -> None:
    monkeypatch.setattr(checkpointing, "SHARE", float("inf"))  # save at every chance
    job = ComputeOptions(tmp_path / "checkpoint", every=1)
    _, whole = PLAIN[name].run(options=replace(job, checkpoint=tmp_path / "other"))
    with pytest.raises(InterruptedRunError):
        PLAIN[name].run(options=job, progress=interrupting(after))
    kind, step = stage_of(job.checkpoint)
    assert kind == stage[0]
    assert stage[1] in {None, step}
    seen = []

    def watch(stage: Any, total: Any) -> Any:
        return nullcontext(lambda count: seen.append((stage, count)))

    _, resumed = PLAIN[name].run(options=replace(job, resume=True), progress=watch)
    assert_equal(resumed, whole)
    if kind == "refining":
        assert all(text.startswith("refining") for text, _ in seen)
        assert 0 < step < len(whole.blocks)
    else:
        assert seen[0] == ("summing up", step)
    _, unsaved = PLAIN[name].run()
    assert_equal(unsaved, whole)


def test_an_old_checkpoint_is_dropped_unless_it_is_wanted(tmp_path: Path) -> None:
    job = ComputeOptions(tmp_path / "checkpoint", every=1)
    with pytest.raises(InterruptedRunError):
        PLAIN["kfac"].run(options=job, progress=interrupting(2))
    stranger = job.checkpoint / "mine.txt"
    stranger.write_text("of the user")
    seen: list[Any] = []

    def watch(stage: Any, total: Any) -> Any:
        return nullcontext(seen.append)

    PLAIN["kfac"].run(options=replace(job, every=100), progress=watch)
    assert seen[0] == 0
    assert list(job.checkpoint.iterdir()) == [stranger]
    discard(job.checkpoint)
    assert stranger.exists()


def test_nothing_to_go_on_from_is_a_beginning(tmp_path: Path) -> None:
    job = ComputeOptions(tmp_path / "checkpoint", resume=True)
    _, found = PLAIN["kfac"].run(options=job)
    _, expected = PLAIN["kfac"].run()
    assert_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": KfacReduce()}, "estimator.name was kfac, is kfac-r"),
        ({"draws": 2}, "source.cotangents.draws was 1, is 2"),
        ({"examples": PLAIN["nearest"].examples}, "source.data.examples was 7, is 9"),
    ],
)
def test_another_job_cannot_go_on_from_a_checkpoint(
    tmp_path: Path, change: Any, message: Any
) -> None:
    job = ComputeOptions(tmp_path / "checkpoint", every=1)
    with pytest.raises(InterruptedRunError):
        PLAIN["kfac"].run(options=job, progress=interrupting(2))
    other = replace(PLAIN["kfac"], **change)
    with pytest.raises(MismatchError, match=message):
        other.run(options=replace(job, resume=True))


def test_another_number_of_processes_is_another_job(tmp_path: Path) -> None:
    job = ComputeOptions(tmp_path / "checkpoint", every=1)
    with pytest.raises(InterruptedRunError):
        PLAIN["kfac"].run(options=job, progress=interrupting(2))
    job.checkpoint.rename(tmp_path / "process-0")
    moved = ComputeOptions(tmp_path, resume=True)
    manifest = tmp_path / "process-0" / "checkpoint.json"
    manifest.write_text(
        manifest.read_text().replace('"processes": 1', '"processes": 2')
    )
    with pytest.raises(MismatchError, match="processes was 2, is 1"):
        PLAIN["kfac"].run(options=moved)


@pytest.mark.parametrize("what", ["tensors", "manifest"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, what: Any) -> None:
    job = ComputeOptions(tmp_path / "checkpoint", every=1)
    with pytest.raises(InterruptedRunError):
        PLAIN["kfac"].run(options=job, progress=interrupting(2))
    pattern = "*.safetensors" if what == "tensors" else "checkpoint.json"
    (file,) = job.checkpoint.glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = b"x" * 9
    file.write_bytes(content)
    with pytest.raises(FormatError, match=r"damaged|not valid JSON"):
        PLAIN["kfac"].run(options=replace(job, resume=True))


ROWS = ["the cat", "a dog sings", "bird", "the red fish swims", "a black cat"] * 12


def command(model: Any, data: Any, output: Any, *options: Any) -> Any:
    start_of = [*KFAC, *COMPUTE, str(model), str(data), "-o", str(output)]
    steps = ["--batch-size", "1", "--checkpoint-every", "1"]
    little = ["--memory", "100KB"] if "nearest" in options else []
    return [*start_of, *steps, *little, *options]


@pytest.fixture
def data(tmp_path: Path) -> Any:
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["text", *ROWS, ""]))
    return path


def kill(processes: Any, checkpoint: Any, wait: Any) -> Any:
    """Kill one process some time after the first checkpoint; the others end."""
    deadline = time.monotonic() + PATIENCE
    while not list(checkpoint.rglob("checkpoint.json")):
        if time.monotonic() > deadline:
            return finish(processes, 0)
        if any(process.poll() is not None for process in processes):
            break
        time.sleep(0.01)
    time.sleep(wait)
    processes[-1].kill()
    return finish(processes)


def assert_same_files(one: Any, two: Any) -> None:
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize("estimator", ["kfac", "nearest"])
def test_killed_commands_go_on_to_the_same_files(
    tmp_path: Path, data: Any, saved_model: Any, estimator: Any
) -> None:
    model, choice = saved_model("bert"), ["--estimator", estimator]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ((status, _, stderr),) = finish(start(command(model, data, whole, *choice), 1))
    assert status == 0, stderr
    waits, killed = random.Random(estimator), 0
    checkpoint = tmp_path / "cut.checkpoint"
    resume: list[str] = []
    for _ in range(3):
        arguments = command(model, data, cut, *choice, *resume)
        ((status, _, stderr),) = kill(
            start(arguments, 1), checkpoint, 0.5 * waits.random()
        )
        assert status in {0, -signal.SIGKILL}, stderr
        killed += status != 0
        if status == 0:
            break
        resume = ["--resume"]
    assert killed > 0
    if not cut.exists():
        ((status, _, stderr),) = finish(
            start(command(model, data, cut, *choice, "--resume"), 1)
        )
        assert status == 0, stderr
        assert f"going on from {checkpoint}" in stderr
    assert_same_files(whole, cut)
    left = {p.name for p in tmp_path.iterdir() if not p.name.startswith(".cut.")}
    assert left == {"whole", "cut", "data.csv"}


@pytest.mark.parametrize("shard", [[], ["--shard"]])
def test_killed_processes_go_on_together(
    tmp_path: Path, data: Any, saved_model: Any, shard: Any
) -> None:
    model, choice = saved_model("bert"), [*shard, "--estimator", "nearest"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for status, _, stderr in finish(start(command(model, data, whole, *choice))):
        assert status == 0, stderr
    checkpoint = tmp_path / "cut.checkpoint"
    found = kill(start(command(model, data, cut, *choice)), checkpoint, 0.2)
    assert [status for status, _, _ in found] == [1, -signal.SIGKILL], found
    assert not cut.exists()
    main, other = finish(start(command(model, data, cut, *choice, "--resume")))
    assert main[0] == other[0] == 0, main[2] + other[2]
    assert f"going on from {checkpoint}" in main[2]
    assert "going on" not in other[2]
    assert_same_files(whole, cut)
    assert not checkpoint.exists()


def test_the_command_says_where_it_begins(
    tmp_path: Path, data: Any, saved_model: Any
) -> None:
    def run(*options: Any) -> Any:
        arguments = command(saved_model("bert"), data, tmp_path / "out", *options)
        ((status, _, stderr),) = finish(start([*arguments, "--examples", "3"], 1))
        return status, stderr

    checkpoint = tmp_path / "out.checkpoint"
    status, said = run("--resume")
    assert status == 0
    assert f"nothing is kept in {checkpoint} to go on from; beginning" in said
    status, said = run("--resume")
    assert status == 1
    assert "exists already" in said
    with pytest.raises(InterruptedRunError):
        PLAIN["kfac"].run(
            options=ComputeOptions(checkpoint, every=1), progress=interrupting(2)
        )
    status, said = run("--resume", "--force")
    assert status == 1
    assert "of an interrupted job with other settings" in said
    status, said = run("--force")
    assert status == 0
    assert f"beginning afresh, although {checkpoint} was there" in said
    assert not checkpoint.exists()
