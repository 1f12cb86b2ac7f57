"""Processes that tests start: what they say is kept, and none is left behind."""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 1800.0
"""Seconds after which a process hangs, on a machine that does many other things."""
GRACE = 300.0
"""Seconds for the fellows of one that has failed to fail as well."""


class Process(subprocess.Popen[str]):
    """A Python of its own, with everything that it starts; it ends with the tests."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str] = {}) -> None:
        shared = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}",
            "OMP_NUM_THREADS": "1",
        }
        # files, because a pipe that nobody reads yet would stop it
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self.said: list[str] = []
        super().__init__(
            [sys.executable, *arguments],
            env={**shared, **env},
            stdout=self._files[0],
            stderr=self._files[1],
            text=True,
            start_new_session=True,
        )
        atexit.register(self.stop)

    def stop(self) -> None:
        """Kill it and whatever it has started, and wait for it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        for file in self._files:
            file.seek(0)
            self.said.append(file.read())
            file.close()
        self._files.clear()
        atexit.unregister(self.stop)


def finish(
    processes: Sequence[Process], patience: float = PATIENCE
) -> list[tuple[int, str, str]]:
    """Wait for processes; what hangs is killed. Gives status, stdout and stderr."""
    deadline = time.monotonic() + patience
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                deadline = min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    finally:
        for process in processes:
            process.stop()
    return [(p.returncode, p.said[0], p.said[1]) for p in processes]
