"""Every way to merge, on the task vectors and the artifacts that the demo has left.

Those that were trained without the penalty, and those that were trained with it, are
merged by every method at α = 1, which needs no labels, and at the α that is best on
other texts (``dev``). All is measured on the demo's held-out texts. Run ``make demo``
first.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import assets
from cli_session import MODEL, MODES, TASKS, TOKENS, kfac, say

METHODS = {
    "sum": "",
    "ties": "",
    "tsv": "",
    "iso-c": "",
    "iso-cts": "",
    "actmat": "",
    "actmat, centred": "--centred",
    "regmean": "",
    "regmean, 100 %": "--off-diagonal 100%",
}
ARMS = ("without", "with")
SWEEP, DEV = "0.25:3:0.25", 150


def main() -> None:
    """Merge, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="what it left")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS])
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not (options.demo / "with" / "merged").is_dir():
        sys.exit(f"{options.demo} is not what `make demo` leaves; run that first")
    os.chdir(options.demo)
    for task in TASKS:
        _keep_dev(task)
    found = {
        arm: {method: _measure(arm, method) for method in options.methods}
        for arm in ARMS
    }
    Path("merging.json").write_text(json.dumps(found, indent=1) + "\n")
    for arm, rows in found.items():
        say(f"trained {arm} the penalty: mean accuracy, %, and the α that was chosen")
        print("".join(f"{name:>18}" for name in ("", *_columns())))
        for method, row in rows.items():
            print(f"{method:>18}" + "".join(f"{row[name]:>18}" for name in _columns()))


def _columns() -> list[str]:
    return [f"{mode}, {alpha}" for mode in MODES for alpha in ("α = 1", "chosen")]


def _keep_dev(task: str) -> None:
    import pandas as pd

    rows = pd.read_csv(assets.bolt(task, "dev"), sep="\t")
    chosen = rows.sample(min(DEV, len(rows)), random_state=0)
    chosen.to_csv(Path(task) / "dev.csv", index=False)


def _measure(arm: str, method: str) -> dict[str, str]:
    """Mean accuracies of what a method makes of the task vectors, by column."""
    name = method.partition(",")[0]
    how = f"--method {name} {METHODS[method]}"
    if name == "regmean":
        pairs = (f"{arm}/{task}={task}/curvature" for task in TASKS)
        how += "".join(f" --curvature {pair}" for pair in pairs)
    dev = "".join(f" --validation {arm}/{task}={task}/dev.csv" for task in TASKS)
    one, chosen = (
        _evaluate(arm, f"{how} {more}")
        for more in ("--alpha 1", f"--sweep {SWEEP} {dev}")
    )
    row = {}
    for mode in MODES:
        row[f"{mode}, α = 1"] = f"{100 * one[mode]['absolute'][0]:.1f}"
        (alpha,), (accuracy,) = (chosen[mode][key] for key in ("alphas", "absolute"))
        row[f"{mode}, chosen"] = f"{100 * accuracy:.1f} ({alpha:g})"
    return row


def _evaluate(arm: str, how: str) -> Any:
    pairs = " ".join(f"{arm}/{task}={task}/test.csv" for task in TASKS)
    said = kfac(
        f"evaluate {MODEL} {pairs} {how} --text-column text "
        f"--max-length {TOKENS} --json"
    )
    return json.loads(said)["modes"]


if __name__ == "__main__":
    main()
