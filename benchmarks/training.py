"""What a training step costs: time and memory, by regime and penalty.

All arms take turns, training a few steps each, as ``kfac train`` does it. Seconds are
those of the processor, which do not count what others do to it meanwhile, and medians
over steps; memory is the most that a process of its own has grown by since the model
was loaded. Both are printed as ratios to the same regime without penalty, and to
ordinary fine-tuning without penalty, both in float32.

Every regime goes without penalty, with a dense one and with a compressed one, and the
linearised one with all there are; ``--quick`` leaves out other regimes than linearised
and ordinary, and other penalties than of one artifact of Kronecker factors.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kfac_artifacts.choices import REGIMES
from stepping.case import DENSE, NONE, PENALTIES, Arm, keep_curvature, network, train
from stepping.memory import growth

RESULTS = Path(__file__).parent / "results" / "training.json"
ORDINARY, LINEARISED, TAU_JP = "ordinary", "linearised", "tau-jp"
SMALL, LARGE = 16, 128
COMPRESSED = ("small", "block-8")
FEW = (NONE, DENSE, COMPRESSED[0])
BASIC = (ORDINARY, LINEARISED)
WARM_UP, STEPS = 2, 4


def main() -> None:
    """Measure, and print."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    rounds = options.rounds or (2 if options.quick else 5)
    pairs, rows = _pairs(options), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as made:
        place, model = Path(made), network(quick=options.quick)
        keep_curvature(model, place, {penalty for _, penalty in pairs})
        for batch in options.batches:
            arms = [Arm(*pair, batch) for pair in pairs]
            arms += [Arm(r, NONE, batch, "bf16") for r in BASIC if options.bf16]
            seconds = _seconds(model, arms, place, rounds)
            held = {arm: _growth(arm, place, quick=options.quick) for arm in arms}
            rows += _rows(arms, seconds, held)
            print(_table(rows[-len(arms) :]), flush=True)
    found = {**_summary(rows), "arms": rows}
    if options.json:
        print(json.dumps(found))
    if options.keep:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="random weights, and fewer turns")
    add("--json", action="store_true", help="print the results in one last line")
    add("--batches", type=int, nargs="+", default=[SMALL, LARGE])
    add("--regimes", nargs="+", choices=REGIMES, help="each with all --penalties")
    add("--penalties", nargs="+", choices=PENALTIES, help="beside none at all")
    add("--bf16", action="store_true", help="in bf16, too, without penalty")
    add("--rounds", type=int, help="turns of every arm (default 5, quick 2)")
    add("--keep", action="store_true", help="in results/, for RESULTS.md")
    options = parser.parse_args()
    if options.keep and (options.quick or options.regimes or options.penalties):
        parser.error("--keep takes all arms, and real weights: leave out what is less")
    return options


def _pairs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Regimes and penalties; those that others are set beside are always among them."""
    if options.regimes or options.penalties or options.quick:
        regimes = dict.fromkeys([ORDINARY, *(options.regimes or BASIC)])
        penalties = [NONE, *(options.penalties or (DENSE, *COMPRESSED))]
        return [*product(regimes, dict.fromkeys(penalties))]
    few = [*product(REGIMES, FEW)]
    return [*dict.fromkeys([*few, *product([LINEARISED], PENALTIES)])]


def _seconds(
    model: Any, arms: Sequence[Arm], place: Path, rounds: int
) -> dict[Arm, float]:
    """Median seconds of a step; the first ones of every turn warm up."""
    found: dict[Arm, list[float]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            ends = train(model, arm, place, WARM_UP + STEPS)
            steps = [after - before for before, after in pairwise(ends)]
            found[arm] += steps[WARM_UP - 1 :]
    return {arm: median(times) for arm, times in found.items()}


def _growth(arm: Arm, place: Path, *, quick: bool) -> int:
    """Bytes, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(growth, arm, place, quick=quick).result()


def _rows(
    arms: Sequence[Arm], seconds: Mapping[Arm, float], held: Mapping[Arm, int]
) -> list[dict[str, Any]]:
    rows = []
    for arm in arms:
        free = Arm(arm.regime, NONE, arm.batch)
        ordinary = Arm(ORDINARY, NONE, arm.batch)
        rows.append(
            {
                **vars(arm),
                "seconds": seconds[arm],
                "bytes": held[arm],
                "time_vs_free": seconds[arm] / seconds[free],
                "memory_vs_free": held[arm] / held[free],
                "time_vs_ordinary": seconds[arm] / seconds[ordinary],
                "memory_vs_ordinary": held[arm] / held[ordinary],
            }
        )
    return rows


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"\n{rows[0]['batch']} texts per step: time x (MiB)",
        "| regime | penalty | precision | step | of no penalty | of ordinary |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['regime']} | {row['penalty']} | {row['precision']} | "
        f"{1000 * row['seconds']:.0f} ms, {row['bytes'] / 2**20:.0f} MiB | "
        f"{row['time_vs_free']:.2f}, "
        f"{row['memory_vs_free']:.2f} | {row['time_vs_ordinary']:.2f}, "
        f"{row['memory_vs_ordinary']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The linearised step at the smallest batch, penalties at the largest."""
    linear = [row for row in rows if row["regime"] == LINEARISED]
    if not linear:
        return {}
    last = linear[-1]["batch"]
    at = {row["penalty"]: row for row in reversed(linear) if row["batch"] == last}
    summary = {"linearised_vs_ordinary": linear[0]["time_vs_ordinary"]}
    for recipe in COMPRESSED:
        if recipe in at:
            summary["penalty_time_overhead"] = at[recipe]["time_vs_free"] - 1
            summary["penalty_memory_overhead"] = at[recipe]["memory_vs_free"] - 1
            break
    if TAU_JP in at and DENSE in at:
        for what in ("time", "memory"):
            beside = at[TAU_JP][f"{what}_vs_free"], at[DENSE][f"{what}_vs_free"]
            summary[f"tau_jp_vs_kfac_{what}"] = beside[0] / beside[1]
            summary[f"dense_penalty_{what}_overhead"] = beside[1] - 1
    return summary


if __name__ == "__main__":
    main()
