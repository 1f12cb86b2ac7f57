"""The workers of one case, and the rounds in which they take turns."""

import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from estimation.config import Case

PRELOAD = (
    "torch",
    "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip",
)
PEERS = Path(sys.prefix) / "peers"
"""Where ``make bench`` puts kronfluence: its wheel holds packages named ``tests`` and
``examples``, which in site-packages would hide the project's own."""
INSTALL = {
    "kronfluence": f"{sys.executable} -m pip install --no-deps --target {PEERS} "
    "kronfluence==1.0.1",
    "curvlinops": f"{sys.executable} -m pip install --no-deps "
    "curvlinops-for-pytorch==3.0.1 backpack-for-pytorch==1.7.1",
    "bergson": f"{sys.executable} -m pip install --no-deps --target {PEERS} "
    "bergson==2.5.0 simple-parsing docstring-parser petname ml-dtypes natsort",
}

Round: TypeAlias = dict[str, dict[str, float]]  # part -> clock -> seconds


def missing_peers(peers: Sequence[str]) -> dict[str, str]:
    """The peers that are not installed, and the command that installs each."""
    sys.path.append(str(PEERS))
    importlib.invalidate_caches()
    return {n: INSTALL[n] for n in peers if importlib.util.find_spec(n) is None}


def _serve(kind: str, tool: str, case: Any, connection: Connection) -> None:
    serve = importlib.import_module(f"{kind}.worker").serve
    serve(tool, case, connection)


class Worker:
    """A tool in a process of its own, so that its peak memory is its own.

    All processes are forked from one that has imported what every tool needs and done
    nothing else. Its kind is the folder of what it works on.
    """

    def __init__(self, tool: str, case: Any, kind: str = "estimation") -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(list(PRELOAD))
        self.tool = tool
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(kind, tool, case, theirs))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Worker":
        """Begin to work."""
        return self

    def __exit__(self, *_: object) -> None:
        """Dismiss it."""
        self._connection.close()
        self._process.join()

    def ask(self, **command: Any) -> Any:
        """Give a command and wait for the answer; see ``worker``."""
        with contextlib.suppress(BrokenPipeError):  # has it died, hear() says so
            self._connection.send(command)
        return self.hear()

    def hear(self) -> Any:
        """Wait for an answer.

        Returns:
            The answer.

        Raises:
            SystemExit: If the worker has died.
        """
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise SystemExit(
                f"the process of {self.tool} ended with {self._process.exitcode}: see "
                "the traceback above; -9 means that memory was short, so try fewer "
                "--layers or a smaller --batch-size"
            ) from None


@dataclass(frozen=True)
class Findings:
    """What was measured of one case.

    Attributes:
        rounds: Per tool, what every round took.
        baseline: Per tool, bytes in use once model and examples are there.
        peak: Per tool, the most bytes that were in use.
        difference: Per peer, the largest relative difference of a factor from ours.
        linears: Number of Linear layers.
    """

    rounds: dict[str, list[Round]]
    baseline: dict[str, int]
    peak: dict[str, int]
    difference: dict[str, float]
    linears: int


def measure(
    case: Any, tools: Sequence[str], rounds: int, kind: str = "estimation"
) -> Findings:
    """Let the tools take turns, so that none has a quieter machine than the others.

    Args:
        case: What to measure; the first batch of it is everyone's warm-up.
        tools: Keys of ``worker.TOOLS``.
        rounds: How often each works through all examples.
        kind: The folder that has the tools.

    Returns:
        The findings.
    """
    with ExitStack() as stack:
        workers = {
            tool: stack.enter_context(Worker(tool, case, kind)) for tool in tools
        }
        ready = {tool: worker.hear() for tool, worker in workers.items()}
        for worker in workers.values():
            worker.ask(measure=case.batch_size)
        taken: dict[str, list[Round]] = {tool: [] for tool in tools}
        for _ in range(rounds):
            for tool, worker in workers.items():
                taken[tool].append(worker.ask(measure=case.examples))
        peaks = {tool: worker.ask(peak=None) for tool, worker in workers.items()}
        return Findings(
            rounds=taken,
            baseline={tool: answer["baseline"] for tool, answer in ready.items()},
            peak=peaks,
            difference=_compare(workers, case.batch_size),
            linears=ready["ours"]["linears"],
        )


def _compare(workers: dict[str, Worker], count: int) -> dict[str, float]:
    """Hold the factors of the first examples, for the same draws, against ours."""
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "ours.safetensors")
        workers["ours"].ask(save=path, count=count)
        return {
            tool: worker.ask(compare=path, count=count)
            for tool, worker in workers.items()
            if tool in INSTALL
        }


def paper_task(case: Case, datasets: int) -> dict[str, float]:
    """Measure the paper's task: so many data sets, one after the other.

    Args:
        case: One data set's share.
        datasets: Number of data sets.

    Returns:
        Seconds in all, operations of the floor per second, and that as a share of the
        machine's own rate.
    """
    with Worker("floor", case) as floor, Worker("ours_everything", case) as ours:
        floor.hear()
        ours.hear()
        ours.ask(measure=case.batch_size)
        taken = [ours.ask(measure=case.examples) for _ in range(datasets)]
        flops, peak = floor.ask(flops=None), floor.ask(peak_rate=None)
        memory = ours.ask(peak=None)
    seconds = sum(each["seconds"]["wall"] for each in taken)
    rate = datasets * flops / seconds
    return {
        "seconds": seconds,
        "operations_per_second": rate,
        "peak_operations_per_second": peak,
        "share_of_peak": rate / peak,
        "peak_bytes": memory,
    }
