"""One tool, obeying commands: measure, peak, save, compare, flops, peak_rate."""

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from estimation.config import Case
from estimation.models import workload
from estimation.tool import in_use, peak

TOOLS = {
    "floor": ("floor", "Floor"),
    "floor_ekfac": ("floor_ekfac", "EkfacFloor"),
    "ours": ("ours", "LinearsOnly"),
    "ours_everything": ("ours", "Everything"),
    "ours_ekfac": ("ours", "WithEkfac"),
    "ours_nearest": ("ours", "WithNearest"),
    "kronfluence": ("kronfluence_", "Kronfluence"),
    "curvlinops": ("curvlinops_", "Curvlinops"),
}


def serve(name: str, case: Case, connection: Connection) -> None:
    """Set up a tool, tell its baseline, then obey commands until there are no more.

    Args:
        name: A key of ``TOOLS``.
        case: What to set up.
        connection: Where commands come from and answers go to.
    """
    work("estimation", TOOLS[name], workload, case, connection)


def work(
    package: str,
    place: tuple[str, str],
    workload: Callable[[Any], Any],
    case: Any,
    connection: Connection,
) -> None:
    """Set up a tool of any package, and obey; see ``serve``.

    Args:
        package: The package that has the tool.
        place: Its module there, and its class.
        workload: Makes what it works on.
        case: What to set up.
        connection: Where commands come from and answers go to.
    """
    os.dup2(2, 1)  # what the libraries print is no result
    torch.set_num_threads(case.threads)
    module, cls = place
    made = getattr(importlib.import_module(f"{package}.{module}"), cls)
    ready = workload(case)
    connection.send({"baseline": in_use(case.device), "linears": len(ready.linears)})
    tool = made(ready)
    with contextlib.suppress(EOFError):
        while True:
            connection.send(_obey(tool, connection.recv()))


def _obey(tool: Any, command: Mapping[str, Any]) -> Any:
    match command:
        case {"measure": count}:
            return tool.measure(count)
        case {"peak": _}:
            return peak(tool.workload.case.device)
        case {"save": path, "count": count}:
            return _save(tool.factors(count), Path(path))
        case {"compare": path, "count": count}:
            return _largest_difference(tool.factors(count), Path(path))
        case {"flops": _}:
            return tool.flops()
        case {"peak_rate": _}:
            return tool.peak_rate()
    raise ValueError(f"no such command: {command}")


def _save(factors: Mapping[str, Tensor], path: Path) -> int:
    save_file({n: matrix.cpu().clone() for n, matrix in factors.items()}, path)
    return len(factors)


def _largest_difference(factors: Mapping[str, Tensor], path: Path) -> float:
    """Largest relative Frobenius difference of factors from those of another tool."""
    with safe_open(path, framework="pt") as others:
        if not factors or not set(factors) <= set(others.keys()):
            raise ValueError(f"not the same factors: {set(others.keys())}")
        return max(
            _difference(factors[name].cpu(), others.get_tensor(name))
            for name in factors
        )


def _difference(matrix: Tensor, other: Tensor) -> float:
    return float((matrix - other).norm() / other.norm())
