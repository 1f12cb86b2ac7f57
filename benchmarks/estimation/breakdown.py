"""Where the time of our ``kfac`` goes, beside what the floor takes for the same."""

import cProfile
import pstats
import time
from collections.abc import Mapping
from typing import Any

import torch

from estimation.config import Case
from estimation.floor import Floor
from estimation.models import workload
from estimation.ours import LinearsOnly

FUNCTIONS = {
    "passes and products": ("capture/run.py", "_one_batch"),
    "products": ("estimate/sums.py", "_add"),
    "proof": ("capture/proof.py", "prove"),
    "independence": ("capture/independence.py", "require_independence"),
    "hashes": ("network.py", "base_of"),
    "closing": ("estimate/sums.py", "take"),
}
"""Functions of the package by what they do, all of them called by ``compute``."""
ROUNDS = 3


def breakdown(case: Case) -> dict[str, dict[str, float]]:
    """Profile an estimation, and measure the floor, in this process.

    Args:
        case: The workload.

    Returns:
        Seconds of the process by part, of ``ours`` and of the ``floor``: the median
        round of three, after one that warms up.
    """
    torch.set_num_threads(case.threads)
    ready = workload(case)
    tool = LinearsOnly(ready)
    tool.estimate(case.examples)
    rounds = sorted((_profiled(tool, case.examples) for _ in range(ROUNDS)), key=_total)
    floor = Floor(ready)
    floor.measure(case.examples)
    parts = {name: found["cpu"] for name, found in floor.measure(case.examples).items()}
    least = {
        "passes": parts["forward"] + parts["backward"],
        "products": parts["products"],
    }
    return {"ours": rounds[ROUNDS // 2], "floor": least}


def shown(found: Mapping[str, Mapping[str, float]]) -> str:
    """Write a line for each part, as shares of the floor."""
    floor = _total(found["floor"])
    rows = [
        (name, seconds / floor, found["floor"].get(name, 0.0) / floor)
        for name, seconds in found["ours"].items()
    ]
    rows.append(("total", _total(found["ours"]) / floor, 1.0))
    lines = [f"{name:14} {ours:.3f}   floor {least:.3f}" for name, ours, least in rows]
    return "\n".join([*lines, f"the floor takes {floor:.2f} s"])


def _profiled(tool: LinearsOnly, count: int) -> dict[str, float]:
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    tool.estimate(count)
    profile.disable()
    calls = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in calls.values())
    spent = {name: _cumulative(calls, *place) for name, place in FUNCTIONS.items()}
    spent["passes"] = spent.pop("passes and products") - spent["products"]
    order = ("passes", "products", "closing", "proof", "independence", "hashes")
    parts = {name: spent[name] for name in order}
    return {**parts, "rest": total - sum(parts.values())}


def _cumulative(calls: Mapping[Any, Any], file: str, name: str) -> float:
    """Seconds in a function and all that it calls."""
    found = [
        row[3]
        for (path, _, function), row in calls.items()
        if function == name and path.endswith(f"kfac_artifacts/{file}")
    ]
    if not found:
        raise RuntimeError(f"no call of {name} in {file} was seen; was it renamed?")
    return float(sum(found))


def _total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())
