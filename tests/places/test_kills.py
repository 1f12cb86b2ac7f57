"""Killed at any moment, replacing leaves the old or the new, and nothing for ever.

A process is killed at every single event that Python audits (opening, renaming,
removing, locking ...), which is before and after every call that changes the disk.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]

KILLED = """
import errno, json, os, signal, sys
from pathlib import Path
from typing import Any
from kfac_artifacts.places import exchange, recover
from tests.places.made import read, write

def replace(path, moment):
    count = 0
    def kill(event, arguments):
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if not child:
        sys.addaudithook(kill)
        write(path, "new", replace=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def whole(path):
    try:
        return read(path)
    except FileNotFoundError:
        return None

def reset(path, before, mode):
    if before == "old":
        write(path, "old", replace=True)
    elif path.exists():
        for file in path.iterdir():
            file.unlink()
        if mode != "filled":
            path.rmdir()

def kill_at_every_moment(path, mode, before):
    seen, left, moment = [], set(), 0
    while True:
        moment += 1
        reset(path, before, mode)
        if replace(path, moment) == 0:
            return {"seen": seen, "left": sorted(left)}
        at_once = whole(path)
        recover(path)
        seen.append([at_once, whole(path)])
        write(path, "last", replace=True)
        assert read(path) == "last"
        left |= {p.name for p in path.parent.iterdir()} - {path.name}
        left |= {p.name for p in path.iterdir() if p.name.startswith(".")}

found, call = {}, exchange._call
for mode in ("exchange", "two-steps", "filled"):
    if mode == "two-steps":  # a system that cannot do it in one
        exchange._call = lambda one, other: errno.ENOSYS
    for before in ("old", "nothing"):
        path = Path(sys.argv[1]) / f"{mode}-{before}" / "a"
        path.parent.mkdir()
        if mode == "filled":
            path.mkdir()
            os.chdir(path)
        found[f"{mode}-{before}"] = kill_at_every_moment(path, mode, before)
    exchange._call = call
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path_factory.mktemp("killed")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("before", ["old", "nothing"])
@pytest.mark.parametrize("mode", ["exchange", "two-steps", "filled"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(
    killed: dict[str, Any], mode: str, before: str
) -> None:
    found = killed[f"{mode}-{before}"]
    assert len(found["seen"]) > 30
    assert found["left"] == []  # the next writer has cleared everything away
    old = "old" if before == "old" else None
    assert {after for _, after in found["seen"]} == {old, "new"}
    at_once = {now for now, _ in found["seen"]}
    if mode == "exchange":  # not even for a moment is it missing
        assert at_once == {old, "new"}
    else:
        assert at_once <= {old, "new", None}
