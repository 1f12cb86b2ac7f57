"""Processes that tests start do not outlive them."""

import os
import signal
import time
from contextlib import suppress

import pytest

from tests import running
from tests.running import Process, finish

pytestmark = pytest.mark.processes

HANGING = """
import os, sys, time
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""


def is_there(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as about:  # noqa: PTH123
            return about.read().rpartition(")")[2].split()[0] != "Z"
    return False


def test_what_hangs_is_killed_with_all_that_it_has_started() -> None:
    ((status, stdout, _),) = finish([Process(["-c", HANGING])], patience=1.0)
    assert status == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while is_there(int(stdout)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_there(int(stdout))


def test_nobody_waits_long_for_the_fellow_of_one_that_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "GRACE", 0.1)
    hanging, failing = Process(["-c", HANGING]), Process(["-c", "raise SystemExit(3)"])
    begun = time.monotonic()
    (one, two) = finish([hanging, failing])
    assert time.monotonic() - begun < 60
    assert (one[0], two[0]) == (-signal.SIGKILL, 3)


def test_more_than_a_pipe_takes_is_kept() -> None:
    ((status, stdout, stderr),) = finish(
        [Process(["-c", "import sys; print('x' * 10**6); print(1, file=sys.stderr)"])]
    )
    assert (status, len(stdout), stderr) == (0, 10**6 + 1, "1\n")
