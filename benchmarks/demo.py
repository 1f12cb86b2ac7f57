"""The whole story on real weights and real texts, on a CPU, without a Hub.

Three owners compute the curvature of all-MiniLM-L6-v2 on their texts and push it to a
registry, which is a plain directory. A sharer merges what is there. Then every owner
trains a task vector of their own, once with the penalty of the others' curvature and
once without, and the three are added up. Nobody sees anybody else's texts.

What disturbs the others least without the penalty is a lower learning rate. So those
without it are trained at lower rates as well, and the one counts whose sum is best on
other texts (``dev``), linearised and as an ordinary model each by itself.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click

import assets
from cli_session import (
    BATCH,
    EVERY,
    LAMBDA,
    MODEL,
    MODES,
    MODULES,
    RATE,
    STEPS,
    TASKS,
    compute,
    evaluate,
    kfac,
    prepare,
    say,
    train,
)
from kfac_artifacts import KfacError
from kfac_artifacts.plotting import (
    COLOURS,
    check_plottable,
    new_figure,
    save_figure,
)

WORK = Path("demo")
ARMS = {"without": 0, "with": LAMBDA}  # λ; directories are named so
LOWER_RATES = (1e-4, 3e-4)


def main() -> None:
    """Run the story for every seed, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--lr", type=float, default=RATE, help="learning rate")
    options = parser.parse_args()
    seeds = range(options.seeds)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.perf_counter()
    results_file, plot_file = (Path(f"results.{e}").resolve() for e in ("json", "png"))
    check_plottable(plot_file)
    shutil.rmtree(WORK, ignore_errors=True)
    prepare(WORK)
    os.chdir(WORK)
    runs = [_story(seed, options.lr) for seed in seeds]
    table = _table(runs)
    _plot(table, plot_file)
    results = {
        "tasks": list(TASKS),
        "seeds": list(seeds),
        "settings": {
            "steps": STEPS,
            "batch_size": BATCH,
            "learning_rate": options.lr,
            "lambda": LAMBDA,
            "every": EVERY,
            "modules": MODULES,
        },
        "accuracy": table,
        "runs": runs,
        "seconds": round(time.perf_counter() - started),
    }
    results_file.write_text(json.dumps(results, indent=1) + "\n")
    _print(table, runs, round(time.perf_counter() - started))


def _story(seed: int, rate: float) -> dict[str, Any]:
    """Tell the story once."""
    for task in TASKS:
        say(f"{task}: its owner computes the curvature, without labels, and pushes it")
        compute(task, f"{task}/curvature", seed)
        kfac(f"push {task}/curvature registry/{task}")
    say("A sharer merges them into one of the same size, and pushes the total")
    for task in TASKS:
        kfac(f"pull registry/{task} sharer/{task} --force")
    parts = " ".join(f"sharer/{task}" for task in TASKS)
    kfac(f"merge {parts} -o sharer/total --force")
    kfac("push sharer/total registry/total")
    for task in TASKS:
        say(f"{task}: its owner pulls the total, takes their own part out, and trains")
        kfac(f"pull registry/total {task}/total --force")
        for arm, lam in ARMS.items():
            others = f"{task}/total --exclude-own {task}/curvature"
            train(task, f"{arm}/{task}", others, seed, lam=lam, rate=rate)
    found = {}
    for arm in ARMS:
        say(f"Everybody's task vectors, trained {arm} the penalty, are added up")
        taus = " ".join(f"{arm}/{t}" for t in TASKS)
        kfac(f"apply {MODEL} {taus} --alpha 1 -o {arm}/merged --force")
        found[arm] = evaluate(arm)
    best = _best_rates(seed, rate, found["without"])
    return {"seed": seed, **found, "best without": best}


def _best_rates(seed: int, rate: float, usual: dict[str, Any]) -> dict[str, Any]:
    """Train at lower rates without the penalty; by mode the best rate, and its scores.

    Args:
        seed: Of this story.
        rate: The rate of the story, at which everything is done already.
        usual: The scores at this rate.

    Returns:
        By mode the ``rate`` that is best on ``dev``, and ``merged`` on test by task.
    """
    say("Without the penalty at lower learning rates; the best on other texts counts")
    places = {rate: "without"}
    for lower in LOWER_RATES:
        if lower == rate:
            continue
        places[lower] = f"without-{lower:.0e}"
        for task in TASKS:
            others = f"{task}/total --exclude-own {task}/curvature"
            train(task, f"{places[lower]}/{task}", others, seed, lam=0, rate=lower)
    dev = {r: evaluate(place, "dev")["modes"] for r, place in places.items()}
    scores = {rate: usual["modes"]}
    found = {}
    for mode in MODES:
        best = max(dev, key=lambda r: dev[r][mode]["absolute"][0])
        if best not in scores:
            scores[best] = evaluate(places[best])["modes"]
        tasks = scores[best][mode]["tasks"]
        merged = {task: tasks[task]["merged"][0] for task in TASKS}
        found[mode] = {"rate": best, "merged": merged}
    return found


def _table(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracies in percent by mode, task (and ``mean``) and column, over the seeds."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for mode in MODES:
        rows = {task: _row(runs, mode, task) for task in TASKS}
        columns = next(iter(rows.values()))
        mean = {c: fmean(row[c] for row in rows.values()) for c in columns}
        table[mode] = {**rows, "mean": mean}
    return table


def _row(runs: Sequence[dict[str, Any]], mode: str, task: str) -> dict[str, float]:
    def mean(arm: str, what: str) -> float:
        scores = [run[arm]["modes"][mode]["tasks"][task][what] for run in runs]
        return 100 * fmean(x[0] if isinstance(x, list) else x for x in scores)

    return {
        "pretrained": mean("with", "pretrained"),
        "individual": mean("without", "individual"),
        "merged without": mean("without", "merged"),
        "at its best rate": 100
        * fmean(run["best without"][mode]["merged"][task] for run in runs),
        "merged with penalty": mean("with", "merged"),
    }


def _print(
    table: dict[str, dict[str, dict[str, float]]],
    runs: Sequence[dict[str, Any]],
    seconds: int,
) -> None:
    """Print a table per mode, the seeds if there are several, and the result."""
    for mode, rows in table.items():
        say(f"Accuracy on held-out texts, %: {MODES[mode]}")
        columns = list(rows["mean"])
        print("  " + f"{'task':15}" + "".join(f"{c:>21}" for c in columns))
        for task, row in rows.items():
            cells = "".join(f"{row[column]:21.1f}" for column in columns)
            print("  " + f"{task:15}{cells}")
    for run in runs:
        rates = [f"{run['best without'][m]['rate']:g} {MODES[m]}" for m in MODES]
        print(f"  seed {run['seed']}: without the penalty best at {', '.join(rates)}")
    for run in runs if len(runs) > 1 else ():
        merged = [100 * run[arm]["modes"]["linear"]["absolute"][0] for arm in ARMS]
        print(f"  seed {run['seed']}: linearised, {merged[0]:.1f} to {merged[1]:.1f}")
    print(f"\nresults.json, results.png and demo/ were written in {seconds} s")
    means = {mode: rows["mean"] for mode, rows in table.items()}
    for mode, mean in means.items():
        print(
            f"{MODES[mode]}: without penalty {mean['merged without']:.1f} % at the "
            f"rate of the demo, {mean['at its best rate']:.1f} % at its best; with "
            f"penalty {mean['merged with penalty']:.1f} %"
        )
    without, with_penalty = (
        round(means["linear"][column], 1)
        for column in ("at its best rate", "merged with penalty")
    )
    print(
        f"merged at alpha=1: without penalty {without:.1f} %, with penalty "
        f"{with_penalty:.1f} %, gain {with_penalty - without:.1f} points"
    )


def _plot(table: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    colours = ("#bbbbbb", COLOURS[1], COLOURS[5], COLOURS[4], COLOURS[0])
    figure = new_figure(path, 11, 4)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (mode, rows) in zip(panels, table.items(), strict=True):
        for i, column in enumerate(rows["mean"]):
            places = [j + 0.17 * (i - 2) for j in range(len(rows))]
            heights = [row[column] for row in rows.values()]
            bars = panel.bar(places, heights, 0.17, label=column, color=colours[i])
            panel.bar_label(bars, fmt="%.0f", fontsize=7)
        panel.set_title(MODES[mode])
        panel.set_xticks(range(len(rows)), rows)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on held-out texts, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=5, loc="outside lower center")
    save_figure(figure, path)


if __name__ == "__main__":
    try:
        main()
    except (assets.AssetError, click.ClickException, KfacError) as error:
        sys.exit(f"Error: {error}")
