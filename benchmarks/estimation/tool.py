"""What every adapter promises, and the clock and the scale they are measured with."""

import ctypes
import gc
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from estimation.models import Workload

Seconds: TypeAlias = dict[str, float]  # by clock: "wall", and "cpu" of the process


class Tool(ABC):
    """An estimator of Kronecker factors, set up for a workload."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    @abstractmethod
    def estimate(self, count: int) -> Any:
        """Estimate from the first examples, as the tool does it; this is timed."""

    @abstractmethod
    def factors(self, count: int) -> dict[str, Tensor]:
        """``<module>.A`` and ``<module>.B``, by this package's draws and normalisers.

        A is a mean over examples and positions, B a mean over examples of the sum over
        positions; a bias is the last row of A.
        """

    def measure(self, count: int) -> dict[str, Seconds]:
        """Time one estimate; its result is dropped, and its memory given back."""
        seconds = timed(lambda: self.estimate(count), self.workload.case.device)
        give_back()
        return {"seconds": seconds}


def timed(work: Callable[[], Any], device: str) -> Seconds:
    """Time some work by both clocks, and drop its result."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise(device)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def give_back() -> None:
    """Return freed memory to the system, for the others while this process waits."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def synchronise(device: str) -> None:
    """Wait for the device; a CPU has nothing to wait for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def in_use(device: str) -> int:
    """Memory in use now, in bytes: allocated on a GPU, else resident."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak(device: str) -> int:
    """Most memory that was in use, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
