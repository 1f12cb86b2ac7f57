"""From findings to ratios, and to a table of them."""

from dataclasses import asdict
from typing import Any

from estimation.config import Case
from estimation.runner import Findings

MEBIBYTE = 2**20
KEYS = (
    "ratio_to_floor",
    "speedup_vs_kronfluence",
    "speedup_vs_curvlinops",
    "peak_memory_ratio_vs_kronfluence",
    "nearest_vs_kfac",
    "ekfac_vs_kfac",
    "ekfac_floor_vs_kfac",
)


def clock_of(case: Case) -> str:
    """Which clock the ratios are of.

    The CPU time of the process is the steadier one on a machine that others use, but
    threads that wait for one another use it up, and it does not see a GPU at work.

    Args:
        case: What is measured.

    Returns:
        ``cpu`` or ``wall``.
    """
    return "cpu" if case.device == "cpu" and case.threads == 1 else "wall"


def summarise(case: Case, found: Findings) -> dict[str, Any]:
    """Take the best of the rounds, and compare.

    Args:
        case: What was measured.
        found: The findings.

    Returns:
        The ratios of ``KEYS``, None where a peer is not installed or an estimator was
        not asked for, and what they are made of.
    """
    best = {
        tool: {
            part: {
                clock: min(r[part][clock] for r in rounds) for clock in ("wall", "cpu")
            }
            for part in rounds[0]
        }
        for tool, rounds in found.rounds.items()
    }
    clock = clock_of(case)
    seconds = {
        tool: sum(part[clock] for part in parts.values())
        for tool, parts in best.items()
    }
    ours, beyond = seconds["ours"], seconds.get("floor_ekfac")
    peers = {tool for tool in seconds if not tool.startswith(("ours", "floor"))}
    memory = found.peak["ours"], found.peak.get("kronfluence")
    return {
        "ratio_to_floor": ours / seconds["floor"],
        "speedup_vs_kronfluence": None,
        "speedup_vs_curvlinops": None,
        **{f"speedup_vs_{peer}": seconds[peer] / ours for peer in peers},
        "peak_memory_ratio_vs_kronfluence": memory[1] and memory[0] / memory[1],
        "nearest_vs_kfac": _ratio(seconds.get("ours_nearest"), ours),
        "ekfac_vs_kfac": _ratio(seconds.get("ours_ekfac"), ours),
        "ekfac_floor_vs_kfac": _ratio(beyond and ours + beyond, ours),
        "largest_relative_difference": found.difference,
        "case": asdict(case) | {"linears": found.linears},
        "clock": clock,
        "seconds": seconds,
        **{
            tool: {part: value[clock] for part, value in parts.items()}
            for tool, parts in best.items()
            if tool.startswith("floor")
        },
        "peak_bytes": found.peak,
        "baseline_bytes": found.baseline,
        "rounds": found.rounds,
    }


def _ratio(seconds: float | None, ours: float) -> float | None:
    return None if seconds is None else seconds / ours


def table(summary: dict[str, Any]) -> str:
    """Lay out one case's summary.

    Args:
        summary: From ``summarise``.

    Returns:
        Several lines.
    """
    case, floor = summary["case"], summary["seconds"]["floor"]
    lines = [
        f"{case['model']}: {case['layers']} layers, {case['linears']} Linear layers, "
        f"{case['examples']} examples in batches of {case['batch_size']}, "
        f"{case['device']}, {case['threads']} thread(s), {summary['clock']} time",
        f"{'':17}{'seconds':>9}{'x floor':>9}{'peak MiB':>10}{'above model':>13}"
        f"{'difference':>12}",
    ]
    for tool, seconds in summary["seconds"].items():
        peak, base = summary["peak_bytes"][tool], summary["baseline_bytes"][tool]
        difference = summary["largest_relative_difference"].get(tool)
        memory = f"{peak / MEBIBYTE:10.0f}{(peak - base) / MEBIBYTE:13.0f}"
        lines.append(
            f"{tool:17}{seconds:9.2f}{seconds / floor:9.2f}"
            + ("" if tool.startswith("floor") else memory)
            + ("" if difference is None else f"{difference:12.1e}")
        )
    for tool in filter(summary.__contains__, ("floor", "floor_ekfac")):
        parts = (f"{name} {value:.2f}" for name, value in summary[tool].items())
        lines.append(f"{tool}: {', '.join(parts)}")
    if summary["ekfac_floor_vs_kfac"] is not None:
        lines.append(
            f"ekfac takes {summary['ekfac_vs_kfac']:.2f} x kfac, and cannot take less "
            f"than {summary['ekfac_floor_vs_kfac']:.2f} x: kfac and floor_ekfac"
        )
    return "\n".join(lines)
