"""The paper's comparisons on real weights and real texts, as a suite of ``kfac suite``.

all-MiniLM-L6-v2 in its last three layers on eight sets of intents, topics and
questions: how the network moves (linearised, ordinary, attention alone, LoRA, TaLoS,
DELTA), by what it is held back (nothing, curvature of every estimator, merged or per
task, the data of others themselves, OrthoReg), and how the task vectors are merged.
Learning rate and weight of every arm are chosen on validation data; three seeds; test
data reported. Everything is kept in ``suite/``, so that a run that was cut off goes on;
remove it to begin anew. ``--arms`` runs some of them; rows of the others stay in
``results/suite.json`` as they were measured.
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
TASKS = assets.BOLT_TASKS
QUICK_TASKS = ("stackoverflow", "banking")
MOST_TEST, MOST_VALIDATION = 300, 100
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
FREE = "[3e-5, 1e-4, 3e-4]"  # of arms that nothing holds back
HELD = "[3e-4, 1e-3]"
WEIGHTS = "[30, 300]"
MERGES = """merges = ["sum", "ties", "tsv", "iso-c", "iso-cts", "actmat"]"""
ARMS = {
    "linear": f"rates = {FREE}\n{MERGES}",
    **{
        estimator: f'curvature = "{estimator}"\nrates = {HELD}\nweights = {WEIGHTS}'
        for estimator in ESTIMATORS
    },
    "kfac per task": f'penalty = "kfac-per-task"\ncurvature = "kfac"\nrates = {HELD}\n'
    f"weights = {WEIGHTS}",
    "tau-jp": f'penalty = "tau-jp"\nrates = {HELD}\nweights = [3, 30]',
    "linear, orthoreg": f'penalty = "orthoreg"\nrates = {FREE}\nweights = [0.1, 1]',
    "ordinary": f'regime = "ordinary"\nselect = "plain"\nrates = {FREE}\n{MERGES}',
    "ordinary, kfac": 'regime = "ordinary"\nselect = "plain"\ncurvature = "kfac"\n'
    f"rates = [1e-4, 3e-4]\nweights = {WEIGHTS}",
    "attention": f'regime = "attention"\nselect = "plain"\nrates = {FREE}',
    "attention, kfac": 'regime = "attention"\nselect = "plain"\ncurvature = "kfac"\n'
    f"rates = [1e-4, 3e-4]\nweights = {WEIGHTS}",
    "lora": f'regime = "lora"\nselect = "plain"\nrates = {HELD}',
    "talos": f'regime = "talos"\nselect = "plain"\nrates = {HELD}',
    "delta": 'regime = "delta"\nselect = "plain"\ncurvature = "ekfac"\n'
    f"rates = [3e-4]\nweights = {WEIGHTS}",
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
    if not options.quick:
        _keep(results.to_json())
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
            alphas=[] if quick else [0.3, 0.5, 0.7, 1.0, 1.3],
            steps=40 if quick else 60,
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


def _keep(found: dict[str, Any]) -> None:
    """Write the numbers, beside those of arms that this run had not, if it is alike."""
    if RESULTS.is_file():
        before = json.loads(RESULTS.read_text())
        if _without_arms(before["suite"]) == _without_arms(_plain(found["suite"])):
            ran = set(found["searches"])
            found["rows"] += [r for r in before["rows"] if r["arm"] not in ran]
            found["searches"] = before["searches"] | found["searches"]
            arms = [a for a in before["suite"]["arms"] if a["name"] not in ran]
            found["suite"]["arms"] = [*found["suite"]["arms"], *arms]
            found["seconds"] += before["seconds"]
    order = list(ARMS)
    found["rows"].sort(key=lambda row: order.index(row["arm"]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def _without_arms(suite: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in suite.items() if name != "arms"}


def _plain(suite: dict[str, Any]) -> dict[str, Any]:
    """As it is read from JSON again: lists for tuples."""
    read: dict[str, Any] = json.loads(json.dumps(suite))
    return read


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
