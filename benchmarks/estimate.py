"""How fast the estimator is: against its floor, against kronfluence and curvlinops.

All work on the same model (real sizes, random weights), the same examples, batches and
threads, each in a process of its own, in turns. All cover the same Linear layers with
their biases, KFAC-expand, one Monte-Carlo draw, in float32; ``ours_everything`` covers
the whole model. That they find the same factors is checked in the run. ``ours_ekfac``
and ``ours_nearest`` are our more accurate estimators, beside which no other tool is;
their errors on examples that are held out are printed, too, and the floor of what
EK-FAC does beyond KFAC (``floor_ekfac``).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from estimation.breakdown import breakdown, shown
from estimation.config import SIZES, Case
from estimation.held_out import held_out_errors
from estimation.report import KEYS, summarise, table
from estimation.runner import measure, missing_peers, paper_task

MODELS = ("vit-b-32", "vit-b-16", "bert-base")
QUICK = ("minilm", {"layers": 3, "examples": 64, "batch_size": 32}, 2)
DATASETS, IMAGES = 8, 128  # of the paper
PEERS = ("kronfluence", "curvlinops")
TOLERANCE = 1e-3  # of a factor, relative; float32 in another order gives 1e-6


def main() -> None:
    """Measure, and print."""
    options = _options()
    if options.breakdown:
        for case in _cases(options):
            print(f"{case.model}, {case.examples} examples, shares of the floor:")
            print(shown(breakdown(case)), flush=True)
        return
    missing = missing_peers(PEERS)
    for peer, command in missing.items():
        print(f"{peer} is not installed, so it is not compared with: {command}")
    results = _compare(options, list(missing))
    if options.quick or options.estimators:
        results["held_out_error"] = _held_out(options)
    if options.paper or options.device.startswith("cuda"):
        results["paper_task"] = _paper(options)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    if options.json:
        print(json.dumps(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a smaller model, in a few minutes")
    add(
        "--estimators",
        action="store_true",
        help="ekfac and nearest, too; as in --quick",
    )
    add(
        "--breakdown",
        action="store_true",
        help="only say where our time goes, beside the floor's",
    )
    add("--json", action="store_true", help="print the results in one last line")
    add("--output", type=Path, help="write the results to this file")
    add("--models", nargs="+", choices=SIZES, help=f"default: {' '.join(MODELS)}")
    add("--layers", type=int, help="keep the first layers only")
    add("--examples", type=int, help="a multiple of the batch size")
    add("--batch-size", type=int)
    add("--rounds", type=int, help="turns of each tool; the best counts (default 3)")
    add("--threads", type=int, default=1)
    add("--device", default="cpu")
    add("--paper", action="store_true", help="8 x 128 images, too; always on a GPU")
    return parser.parse_args()


def _compare(options: argparse.Namespace, missing: list[str]) -> dict[str, Any]:
    """Measure every model; the ratios at the top are the first model's."""
    tools = ["floor", "ours", "ours_everything", "kronfluence", "curvlinops"]
    if options.quick:
        tools.remove("ours_everything")
    if options.quick or options.estimators:
        tools += ["floor_ekfac", "ours_ekfac", "ours_nearest"]
    tools = [tool for tool in tools if tool not in missing]
    summaries = []
    for case in _cases(options):
        found = measure(
            case, tools, options.rounds or (QUICK[2] if options.quick else 3)
        )
        for peer, difference in found.difference.items():
            if not difference < TOLERANCE:
                raise SystemExit(
                    f"{case.model}: a factor of {peer} differs from ours by "
                    f"{difference:.1e}, so these would be times of wrong numbers"
                )
        summaries.append(summarise(case, found))
        print(table(summaries[-1]) + "\n", flush=True)
    return {**{key: summaries[0][key] for key in KEYS}, "models": summaries}


def _paper(options: argparse.Namespace) -> dict[str, float]:
    """Measure the paper's task, every parameter covered, on the first model named."""
    model = options.models[0] if options.models else "vit-b-16"
    case = _case(model, {"examples": IMAGES, "batch_size": 32}, options)
    result = paper_task(case, DATASETS)
    print(
        f"{DATASETS} data sets x {case.examples} examples of {case.model}, one draw: "
        f"{result['seconds']:.2f} s on {case.device}; the floor's operations at "
        f"{result['operations_per_second'] / 1e12:.2f} T/s, "
        f"{result['share_of_peak']:.0%} of the measured peak; "
        f"{result['peak_bytes'] / 2**20:.0f} MiB"
    )
    return result


def _held_out(options: argparse.Namespace) -> dict[str, float]:
    """Hold our estimators against examples of the first model that were left out."""
    case = _cases(options)[0]
    errors = held_out_errors(replace(case, examples=2 * case.examples))
    words = ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
    print(f"{case.model}: error on {case.examples} examples held out: {words}")
    return errors


def _cases(options: argparse.Namespace) -> list[Case]:
    if options.quick and not options.models:
        return [_case(QUICK[0], QUICK[1], options)]
    return [_case(model, {}, options) for model in options.models or MODELS]


def _case(model: str, settings: dict[str, int], options: argparse.Namespace) -> Case:
    """What the user says comes first, then these settings, then those of the size."""
    names = ("layers", "examples", "batch_size")
    chosen = {name: getattr(SIZES[model], name) for name in names} | settings
    chosen |= {n: getattr(options, n) for n in names if getattr(options, n)}
    if chosen["examples"] % chosen["batch_size"]:
        raise SystemExit(
            f"{chosen['examples']} examples are no multiple of the batch size "
            f"{chosen['batch_size']}; choose others with --examples and --batch-size"
        )
    return Case(model, **chosen, device=options.device, threads=options.threads)


if __name__ == "__main__":
    main()
