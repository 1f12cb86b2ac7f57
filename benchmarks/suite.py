"""The paper's comparisons on real weights and data, as suites of ``kfac suite``.

``suites/text.toml``: all-MiniLM-L6-v2 on eight sets of intents, topics and questions;
``suites/vision.toml``: TinyViT-5M on four sets of images. How the network moves
(linearised, ordinary, attention alone, LoRA, TaLoS, DELTA), by what it is held back
(nothing, curvature of every estimator, merged or per task, the data of others
themselves, OrthoReg), and how the task vectors are merged. Learning rate and weight of
every arm are chosen on validation data; three seeds; test data reported.
``suites/ablations.toml``: what examples, draws, compression, every Nth step and
curvature of other texts are worth, at the setting that was chosen for ``kfac``.

Everything is kept in ``suite/``, so that a run that was cut off goes on; remove it to
begin anew. With ``--arms`` some arms are run; in ``results/`` rows of the others stay
as they were measured. ``suites/clip.toml`` is the paper's own suite for ``kfac suite``.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kfac_artifacts.suite import (
    Suite,
    SuiteResults,
    read_suite,
    run_suite,
    write_report,
)
from suite_data import write_images, write_texts

HERE = Path(__file__).parent
WORK = Path("suite")
PREPARED: dict[str, Callable[[Path], None]] = {
    "text": write_texts,
    "vision": write_images,
    "ablations": write_texts,
}
QUICK_TASKS, QUICK_ARMS = 2, ("linear", "kfac")


def main() -> None:
    """Prepare the data, run the suite, and keep its numbers."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work = WORK / options.suite
    work.mkdir(parents=True, exist_ok=True)
    PREPARED[options.suite](work)
    declared = work / "suite.toml"
    shutil.copyfile(HERE / "suites" / f"{options.suite}.toml", declared)
    suite = _chosen(read_suite(declared), options)
    kept = work / ("kept-quick" if options.quick else "kept")
    results = run_suite(suite, kept, devices=options.device or ("auto",))
    write_report(results, work / "report.html")
    _print(results)
    if not options.quick:
        _keep(HERE / "results" / f"suite-{options.suite}.json", results, work)
    if options.json:
        print(json.dumps(_summary(results)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("suite", nargs="?", choices=PREPARED, default="text")
    add("--quick", action="store_true", help="two tasks, two arms, one seed, 20 steps")
    add("--arms", nargs="+", help="some of the arms; rows of the others are kept")
    add("--seeds", type=int, default=3, help="how many, from 0")
    add("--device", action="append", help="as of kfac suite; may be repeated")
    add("--json", action="store_true", help="print the accuracies in one last line")
    return parser.parse_args()


def _chosen(suite: Suite, options: argparse.Namespace) -> Suite:
    """The part of a suite that is to be run."""
    wanted = options.arms or (QUICK_ARMS if options.quick else _names(suite))
    unknown = sorted({*wanted} - {*_names(suite)})
    if unknown:
        raise SystemExit(f"no arm {unknown[0]!r}; there are {', '.join(_names(suite))}")
    arms = tuple(arm for arm in suite.arms if arm.name in wanted)
    suite = replace(suite, arms=arms, seeds=tuple(range(options.seeds)))
    if options.quick:
        short = {**suite.training, "steps": 20}
        tasks = suite.tasks[:QUICK_TASKS]
        suite = replace(suite, tasks=tasks, seeds=(0,), alphas=(), training=short)
    return suite


def _names(suite: Suite) -> Sequence[str]:
    return [arm.name for arm in suite.arms]


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


def _keep(path: Path, results: SuiteResults, work: Path) -> None:
    """Write the numbers, beside those of arms that this run had not, if it is alike."""
    text = json.dumps(results.to_json()).replace(f"{work}/", "")  # as in suites/
    found: dict[str, Any] = json.loads(text)
    before = json.loads(path.read_text()) if path.is_file() else None
    if before and _alike(before["suite"], found["suite"]):
        ran = {arm["name"] for arm in found["suite"]["arms"]}
        found["rows"] += [row for row in before["rows"] if row["arm"] not in ran]
        found["searches"] = before["searches"] | found["searches"]
        found["seconds"] += before["seconds"]
        found["suite"]["arms"] += [
            arm for arm in before["suite"]["arms"] if arm["name"] not in ran
        ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def _alike(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether rows of two suites may stand together: other arms, more curvatures."""
    free = {"arms", "curvatures"}
    rest = [{k: v for k, v in each.items() if k not in free} for each in (before, now)]
    known = {each["name"]: each for each in now.get("curvatures", [])}
    return rest[0] == rest[1] and all(
        known.get(each["name"], each) == each for each in before.get("curvatures", [])
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
