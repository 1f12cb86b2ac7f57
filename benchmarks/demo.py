"""The whole story on real weights and real texts, on a CPU, without a Hub.

Three owners compute the curvature of all-MiniLM-L6-v2 on their texts and push it to a
registry, which is a plain directory. A sharer merges what is there. Then every owner
trains a task vector of their own, once with the penalty of the others' curvature and
once without, and the three are added up. Nobody sees anybody else's texts.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import assets
import click

TASKS = {
    "stackoverflow": "questions of programmers, 20 tags",
    "banking": "questions to a bank, 77 intents",
    "hwu": "requests to a home assistant, 64 intents",
}
MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
MODULES = "encoder.layer.[345].*"
TEMPLATE = "This text is about {}."
STEPS, BATCH, TOKENS = 100, 16, 24
LAMBDA, EVERY = 100, 2
HELD_OUT = 500
WORK = Path("demo")
ARMS = {"without": 0, "with": LAMBDA}  # λ; directories are named so
MODES = {"linear": "linearised, as trained", "plain": "as an ordinary model"}


def main() -> None:
    """Run the story for every seed, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    options = parser.parse_args()
    seeds = range(options.seeds)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.perf_counter()
    results_file, plot_file = (
        Path("results.json").resolve(),
        Path("results.png").resolve(),
    )
    _prepare()
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


def _prepare() -> None:
    """Fetch the weights and the texts; every owner gets a train and a test table."""
    _say("Fetching all-MiniLM-L6-v2 and three labelled sets of texts")
    import pandas as pd

    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    (WORK / "all-MiniLM-L6-v2").symlink_to(assets.minilm().resolve())
    for task, what in TASKS.items():
        (WORK / task).mkdir()
        for split in ("train", "test"):
            rows = pd.read_csv(assets.bolt(task, split), sep="\t")
            if split == "test":
                rows = rows.sample(min(HELD_OUT, len(rows)), random_state=0)
            rows.to_csv(WORK / task / f"{split}.csv", index=False)
        print(f"  {WORK}/{task}/: {what}")


def _story(seed: int, rate: float) -> dict[str, Any]:
    """Tell the story once."""
    model = "all-MiniLM-L6-v2"
    for task in TASKS:
        _say(f"{task}: its owner computes the curvature, without labels, and pushes it")
        _kfac(
            f"compute {model} {task}/train.csv -o {task}/curvature "
            f"--model-id {MODEL_ID} --data-id {task} --modules {MODULES} "
            f"--max-length {TOKENS} --cotangents mc "  # as in the paper
            f"--text-column text --seed {seed} --force"
        )
        _kfac(f"push {task}/curvature registry/{task}")
    _say("A sharer merges them into one of the same size, and pushes the total")
    for task in TASKS:
        _kfac(f"pull registry/{task} sharer/{task} --force")
    parts = " ".join(f"sharer/{task}" for task in TASKS)
    _kfac(f"merge {parts} -o sharer/total --force")
    _kfac("push sharer/total registry/total")
    for task in TASKS:
        _say(f"{task}: its owner pulls the total, takes their own part out, and trains")
        _kfac(f"pull registry/total {task}/total --force")
        for arm, lam in ARMS.items():
            _kfac(
                f"train {model} {task}/train.csv -o {arm}/{task} "
                f"--curvature {task}/total "
                f"--exclude-own {task}/curvature --lambda {lam} "
                f"--every {EVERY} --steps {STEPS} --batch-size {BATCH} --lr {rate} "
                f"--max-length {TOKENS} --text-column text --seed {seed} "
                "--force --restart",
                f"--template={TEMPLATE}",
            )
    found = {}
    for arm in ARMS:
        _say(f"Everybody's task vectors, trained {arm} the penalty, are added up")
        taus = " ".join(f"{arm}/{t}" for t in TASKS)
        _kfac(f"apply {model} {taus} --alpha 1 -o {arm}/merged --force")
        pairs = " ".join(f"{arm}/{t}={t}/test.csv" for t in TASKS)
        found[arm] = json.loads(
            _kfac(
                f"evaluate {model} {pairs} --text-column text --max-length {TOKENS} "
                "--json"
            )
        )
    return {"seed": seed, **found}


def _kfac(command: str, *last: str) -> str:
    """Run a ``kfac`` command, show it and the last line of what it says."""
    from kfac_cli.main import main as kfac

    words = [*command.split(), *last]
    print("  $ kfac " + " ".join(w if " " not in w else f"'{w}'" for w in words))
    output = io.StringIO()
    started = time.perf_counter()
    with contextlib.redirect_stdout(output):
        kfac(words, standalone_mode=False)
    said = output.getvalue()
    seconds = time.perf_counter() - started
    if "--json" not in words:
        print(f"    {said.strip().splitlines()[-1]}  [{seconds:.0f} s]", flush=True)
    return said


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
        "merged with penalty": mean("with", "merged"),
    }


def _print(
    table: dict[str, dict[str, dict[str, float]]],
    runs: Sequence[dict[str, Any]],
    seconds: int,
) -> None:
    """Print a table per mode, the seeds if there are several, and the result."""
    for mode, rows in table.items():
        _say(f"Accuracy on held-out texts, %: {MODES[mode]}")
        columns = list(rows["mean"])
        print("  " + f"{'task':15}" + "".join(f"{c:>21}" for c in columns))
        for task, row in rows.items():
            cells = "".join(f"{row[column]:21.1f}" for column in columns)
            print("  " + f"{task:15}{cells}")
    for run in runs if len(runs) > 1 else ():
        merged = [100 * run[arm]["modes"]["linear"]["absolute"][0] for arm in ARMS]
        print(f"  seed {run['seed']}: linearised, {merged[0]:.1f} to {merged[1]:.1f}")
    print(f"\nresults.json, results.png and demo/ were written in {seconds} s")
    mean = table["linear"]["mean"]
    without, with_penalty = (
        round(mean[column], 1) for column in ("merged without", "merged with penalty")
    )
    print(
        f"merged at alpha=1: without penalty {without:.1f} %, with penalty "
        f"{with_penalty:.1f} %, gain {with_penalty - without:.1f} points"
    )


def _plot(table: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = ("#bbbbbb", "#ccbb44", "#ee6677", "#4477aa")
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for panel, (mode, rows) in zip(panels, table.items(), strict=True):
        for i, column in enumerate(rows["mean"]):
            places = [j + 0.2 * (i - 1.5) for j in range(len(rows))]
            heights = [row[column] for row in rows.values()]
            bars = panel.bar(places, heights, 0.2, label=column, color=colours[i])
            panel.bar_label(bars, fmt="%.0f", fontsize=7)
        panel.set_title(MODES[mode])
        panel.set_xticks(range(len(rows)), rows)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on held-out texts, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="lower center")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (assets.AssetError, click.ClickException) as error:
        sys.exit(f"Error: {error}")
