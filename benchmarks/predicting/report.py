"""From findings to ratios, and to a table of them."""

from typing import Any

from estimation.runner import Findings

MEBIBYTE = 2**20
PEERS = ("bergson", "kronfluence")


def summarise(found: Findings) -> dict[str, Any]:
    """Take the best of the rounds by the clock of the process, and compare.

    Args:
        found: The findings.

    Returns:
        The ratios, None where a peer is not installed; seconds and peak memory of each.
    """
    seconds = {
        tool: sum(min(one[part]["cpu"] for one in rounds) for part in rounds[0])
        for tool, rounds in found.rounds.items()
    }
    ours = seconds["ours"]
    return {
        "inputs_vs_forward": seconds["ours_inputs"] / seconds["forward"],
        "inputs_vs_floor": seconds["ours_inputs"] / seconds["floor_inputs"],
        "lm_fisher_vs_floor": ours / seconds["floor"],
        **{
            f"speedup_vs_{peer}": seconds[peer] / ours if peer in seconds else None
            for peer in PEERS
        },
        "seconds": seconds,
        "peak_mib": {n: peak / MEBIBYTE for n, peak in found.peak.items()},
        "difference": found.difference,
    }


def table(summary: dict[str, Any]) -> str:
    """Lay out a summary in lines, one for each tool."""
    seconds = summary["seconds"]
    lines = [f"{'':14}{'seconds':>9}{'x forward':>11}{'x floor':>9}{'peak MiB':>10}"]
    for tool, own in seconds.items():
        ratios = f"{own / seconds['forward']:11.2f}{own / seconds['floor']:9.2f}"
        lines.append(f"{tool:14}{own:9.2f}{ratios}{summary['peak_mib'][tool]:10.0f}")
    return "\n".join(lines)
