"""Every way to merge, on the task vectors and the artifacts that the demo has left.

Those that were trained without the penalty, and those that were trained with it, are
merged by every method, with the factor that is best on other texts (``dev``). Printed
is the mean accuracy on the demo's held-out texts, linearised and as an ordinary model,
with the factor. Run ``make demo`` first.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from cli_session import MODEL, MODES, TASKS, TOKENS, kfac

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
SWEEP = "0.25:3:0.25"


def main() -> None:
    """Merge, measure and print, row by row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="what it left")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=ARMS)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS])
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not (options.demo / "with" / "merged").is_dir():
        sys.exit(f"{options.demo} is not what `make demo` leaves; run that first")
    os.chdir(options.demo)
    for arm in options.arms:
        for method in options.methods:
            cells = _measure(arm, method)
            print(f"| {arm} | {method} | {' | '.join(cells)} |", flush=True)


def _measure(arm: str, method: str) -> list[str]:
    """Mean accuracy of every mode, with the factor that was chosen for it."""
    name = method.partition(",")[0]
    pairs = " ".join(f"{arm}/{task}={task}/test.csv" for task in TASKS)
    how = f"--method {name} {METHODS[method]} --sweep {SWEEP}"
    for task in TASKS:
        how += f" --validation {arm}/{task}={task}/dev.csv"
        if name == "regmean":
            how += f" --curvature {arm}/{task}={task}/curvature"
    said = kfac(
        f"evaluate {MODEL} {pairs} {how} --text-column text "
        f"--max-length {TOKENS} --json"
    )
    found = json.loads(said)["modes"]
    return [
        f"{100 * found[mode]['absolute'][0]:.1f} ({found[mode]['alphas'][0]:g})"
        for mode in MODES
    ]


if __name__ == "__main__":
    main()
