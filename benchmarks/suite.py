"""The paper's comparisons on real weights and real texts, as a suite of ``kfac suite``.

all-MiniLM-L6-v2 in its last three layers on four sets of intents and topics: how the
network moves (linearised, ordinary, attention alone, LoRA, TaLoS, DELTA), by what it is
held back (nothing, curvature of every estimator, merged or per task, the data of others
themselves, OrthoReg), and how the task vectors are merged. Learning rate and weight of
every arm are chosen on validation data; three seeds; test data reported. Everything is
kept in ``suite/``, so that a run that was cut off goes on; remove it to begin anew.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import assets

from kfac_artifacts.suite import SuiteResults, read_suite, run_suite, write_report

WORK = Path("suite")
RESULTS = Path(__file__).with_name("results") / "suite.json"
TASKS = ("stackoverflow", "banking", "hwu", "clinc")
QUICK_TASKS = ("stackoverflow", "banking")
MOST_TEST, MOST_VALIDATION = 500, 200
HEAD = """
name = "{name}"
model = "minilm"
modules = ["encoder.layer.[345].*"]
seeds = {seeds}
max_length = 24
alphas = {alphas}
training = {{steps = {steps}, batch_size = 16}}
"""
TASK = """
[[tasks]]
name = "{task}"
train = "{task}/train.csv"
validation = "{task}/validation.csv"
test = "{task}/test.csv"
text_columns = ["text"]
template = "This text is about {{}}."
"""
CURVATURE = """
[[curvatures]]
name = "{name}"
estimator = "{estimator}"
"""
ESTIMATORS = ("kfac", "nearest", "ekfac", "inputs", "diagonal")
RATES = "[1e-4, 3e-4, 1e-3]"
MERGES = """merges = ["sum", "ties", "tsv", "iso-c", "iso-cts", "actmat"]"""
ARMS = {
    "linear": f"rates = {RATES}\n{MERGES}",
    **{
        estimator: f'curvature = "{estimator}"\nrates = {RATES}\nweights = [10, 100]'
        for estimator in ESTIMATORS
    },
    "kfac per task": f'penalty = "kfac-per-task"\ncurvature = "kfac"\nrates = {RATES}\n'
    "weights = [10, 100]",
    "tau-jp": f'penalty = "tau-jp"\nrates = {RATES}\nweights = [1, 10, 100]',
    "linear, orthoreg": f'penalty = "orthoreg"\nrates = {RATES}\nweights = [0.1, 1]',
    "ordinary": f'regime = "ordinary"\nrates = [3e-5, 1e-4, 3e-4]\n{MERGES}',
    "ordinary, kfac": 'regime = "ordinary"\ncurvature = "kfac"\n'
    "rates = [3e-5, 1e-4, 3e-4]\nweights = [10, 100]",
    "attention": f'regime = "attention"\nrates = {RATES}',
    "attention, kfac": f'regime = "attention"\ncurvature = "kfac"\nrates = {RATES}\n'
    "weights = [10, 100]",
    "lora": f'regime = "lora"\nrates = {RATES}',
    "talos": f'regime = "talos"\nrates = {RATES}',
    "delta": 'regime = "delta"\ncurvature = "ekfac"\nrates = [1e-4, 3e-4]\n'
    "weights = [10, 100]",
}
QUICK_ARMS = {
    "linear": "rates = [1e-4, 1e-3]",
    "kfac": 'curvature = "kfac"\nrates = [3e-4, 1e-3]',
}


def main() -> None:
    """Write the declaration, run it, and keep its numbers."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work = WORK / ("quick" if options.quick else "text")
    work.mkdir(parents=True, exist_ok=True)
    declared = _declare(work, options)
    results = run_suite(
        read_suite(declared), work / "kept", devices=options.device or ("auto",)
    )
    write_report(results, work / "report.html")
    _print(results)
    if not options.quick and not options.arms:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results.to_json(), indent=1) + "\n")
    if options.json:
        print(json.dumps(_summary(results)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="two tasks, two arms, one seed, 40 steps")
    add("--arms", nargs="+", choices=ARMS, help="some of the arms; others are kept")
    add("--seeds", type=int, default=3, help="how many, from 0")
    add("--device", action="append", help="as of kfac suite; may be repeated")
    add("--json", action="store_true", help="print the accuracies in one last line")
    return parser.parse_args()


def _declare(work: Path, options: argparse.Namespace) -> Path:
    """Write tables and the declaration; the whole is what people would write."""
    quick = options.quick
    tasks = QUICK_TASKS if quick else TASKS
    arms = QUICK_ARMS if quick else {n: ARMS[n] for n in options.arms or ARMS}
    if not (work / "minilm").is_symlink():
        (work / "minilm").symlink_to(assets.minilm().resolve())
    for task in tasks:
        _write_tables(work, task)
    parts = [
        HEAD.format(
            name="all-MiniLM-L6-v2 on texts",
            seeds=list(range(1 if quick else options.seeds)),
            alphas=[] if quick else [0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0],
            steps=40 if quick else 100,
        )
    ]
    parts += [TASK.format(task=task) for task in tasks]
    parts += [CURVATURE.format(name=e, estimator=e) for e in ESTIMATORS]
    parts += [f'\n[[arms]]\nname = "{name}"\n{arm}\n' for name, arm in arms.items()]
    path = work / "suite.toml"
    path.write_text("".join(parts))
    return path


def _write_tables(work: Path, task: str) -> None:
    import pandas as pd

    (work / task).mkdir(exist_ok=True)
    for split, name, most in (
        ("train", "train", None),
        ("dev", "validation", MOST_VALIDATION),
        ("test", "test", MOST_TEST),
    ):
        rows = pd.read_csv(assets.bolt(task, split), sep="\t")
        if most is not None and len(rows) > most:
            rows = rows.sample(most, random_state=0)
        rows.to_csv(work / task / f"{name}.csv", index=False)


def _print(results: SuiteResults) -> None:
    print(f"pretrained {100 * results.pretrained:.1f}")
    for row in results.rows:
        merged, share = row.scores["absolute"], row.scores["normalised"]
        spread = (
            "" if merged.deviation is None else f" +/- {100 * merged.deviation:.1f}"
        )
        about = f"{row.arm}, {row.merging}, {row.mode}"
        alpha = "chosen" if row.chosen else "1"
        print(
            f"{about:44} alpha {alpha:6} {100 * merged.mean:5.1f}{spread:9} "
            f"normalised {100 * share.mean:5.1f}  rate {row.rate:g}, lambda "
            f"{'usual' if row.weight is None else f'{row.weight:g}'}"
        )


def _summary(results: SuiteResults) -> dict[str, Any]:
    """Accuracies of the sum at α = 1, by mode and arm."""
    found: dict[str, Any] = {"pretrained": results.pretrained}
    for row in results.rows:
        if row.merging == "sum" and not row.chosen:
            own = found.setdefault(row.mode, {})
            own[row.arm] = row.scores["absolute"].mean
    return found


if __name__ == "__main__":
    main()
