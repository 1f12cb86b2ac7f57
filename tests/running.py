"""Processes that tests start: what they say is kept, and none is left behind.

They are forked from a server that has imported, once, what most of them need.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0
"""Seconds after which a process hangs, on a machine that does many other things."""
GRACE = 100.0
"""Seconds for the fellows of one that has failed to fail as well."""
PRELOADED = [
    "torch",
    "transformers.models.bert.modeling_bert",
    "tests.estimate.processes",
    "kfac_cli.compute",
]
SHARED = {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}",
    "OMP_NUM_THREADS": "1",
}


class Process:
    """A Python of its own, with everything that it starts; it ends with the tests.

    Args:
        arguments: What would follow the interpreter: ``-c CODE …`` or ``-m MODULE …``.
        env: Variables of the environment besides those of the tests.
        needs: What has to live as long as the process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str] = {},
        needs: object = None,
    ) -> None:
        self.needs = needs
        # files, because a pipe that nobody reads yet would stop it
        self._files = [tempfile.NamedTemporaryFile("r") for _ in range(2)]  # noqa: SIM115
        self.said: list[str] = []
        names = [file.name for file in self._files]
        everything = {**os.environ, **SHARED, **env}
        self._process = _server().Process(
            target=_become, args=(list(arguments), everything, names)
        )
        self._process.start()
        atexit.register(self.stop)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def poll(self) -> int | None:
        """The status, negative if a signal has ended it; none while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it alone, at once."""
        self._process.kill()

    def stop(self) -> None:
        """Kill it and whatever it has started, and wait for it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self.said += [file.read() for file in self._files]
        for file in self._files:
            file.close()
        self._files.clear()
        atexit.unregister(self.stop)


@cache
def _server() -> multiprocessing.context.ForkServerContext:
    """Start the server with the environment of its children: torch looks at it once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SHARED.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return context


def _become(
    arguments: list[str], environment: dict[str, str], outputs: list[str]
) -> None:
    """Be what an interpreter with these arguments would be."""
    os.setsid()  # so that all that it starts can be killed with it
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # that of the server may be elsewhere
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    kind, what, *sys.argv[1:] = arguments
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = kind
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # a child of multiprocessing leaves them out


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
    return [(p.poll() or 0, p.said[0], p.said[1]) for p in processes]
