"""Accuracy of merged models against the size of the curvature they were trained with.

After the paper's Fig. 7b, on real weights and real texts. Three owners of texts train
task vectors of all-MiniLM-L6-v2, each with the penalty of the others' merged curvature,
which is compressed in many ways; the task vectors are added up. Of every recipe: the
bytes, the accuracy of the merged model, errors of the curvature and of the penalty, and
what a training step costs. Everything is made in ``compression/`` and kept there, so
that a run that was cut off goes on; remove it to begin anew.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

import assets
import cli_session
from compressing import recipes
from kfac_artifacts import KfacError
from kfac_artifacts.plotting import check_plottable

WORK = Path("compression")
RESULTS = Path(__file__).with_name("results") / "compression.json"
QUICK_STEPS = 30


def main() -> None:
    """Train and measure what is not there yet, and report."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    file = RESULTS.with_stem(f"{RESULTS.stem}-seeds") if options.accuracy else RESULTS
    if not (options.quick or options.accuracy or options.costs):
        check_plottable(file.with_suffix(".png"))
    if options.plot:
        results = json.loads(file.read_text())
    else:
        results = _measure_costs(file) if options.costs else _measure(options)
    _print(results)
    if not options.quick:
        from compressing.figure import draw

        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
        made = " and ".join(results[k] for k in ("command", "costs") if k in results)
        print(f"\n{file} was made by {made}")
        if not (options.accuracy or options.costs):
            draw(results, file.with_suffix(".png"))
    if options.json:
        from compressing.summary import best

        row = best(results["arms"])
        lost = row["points_lost"]["linear"]
        print(json.dumps({"bytes_share": row["bytes_share"], "points_lost": lost}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, default=3, help="how many, from 0")
    add("--recipes", nargs="+", type=_recipe, default=list(recipes.RECIPES))
    add("--accuracy", action="store_true", help="of accuracies alone: many seeds")
    add("--quick", action="store_true", help="one seed, few recipes, short trainings")
    add("--costs", action="store_true", help="time the results' recipes anew")
    add("--json", action="store_true", help="print the best recipe in one last line")
    add("--plot", action="store_true", help="draw again what was measured before")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.recipes = 1, list(recipes.QUICK)
    return options


def _recipe(name: str) -> str:
    """Refuse what is no recipe before anything is trained."""
    from kfac_artifacts.compress import Recipe
    from kfac_artifacts.errors import KfacError

    try:
        if recipes.budget(name) is None:
            Recipe.parse(name)
    except KfacError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    work = (WORK / "quick" if options.quick else WORK).resolve()
    if options.quick:
        shutil.rmtree(work, ignore_errors=True)  # what is measured is what is there now
    cli_session.prepare(work)
    os.chdir(work)
    arms = [recipes.NONE, recipes.DENSE]
    arms += [recipe for recipe in options.recipes if recipe not in arms]
    rows, dense = _rows(arms, options)
    words = [Path(__file__).name, *sys.argv[1:]]
    return {
        "command": f"python benchmarks/{' '.join(words)}",
        "model": cli_session.MODEL_ID,
        "tasks": list(cli_session.TASKS),
        "seeds": list(range(options.seeds)),
        "settings": _settings(options),
        "dense_bytes": dense,
        "arms": rows,
        "seconds": round(time.perf_counter() - started),
    }


def _measure_costs(file: Path) -> dict[str, Any]:
    """Measure anew what the recipes of earlier results cost; nothing is trained."""
    from compressing.conditions import Seed
    from compressing.costs import TRAINER, costs

    results = json.loads(file.read_text())
    rows = {row["recipe"]: row for row in results["arms"] if "penalty" in row}
    work = WORK.resolve()
    cli_session.prepare(work)
    os.chdir(work)
    seed = Seed(0, cli_session.STEPS)
    seed.prepare()
    for recipe in rows:
        seed.compress(recipe, TRAINER)
    stepped = [recipe for recipe in rows if recipe in recipes.STEPPED]
    for recipe, spent in costs(seed, list(rows), stepped).items():
        rows[recipe] |= spent
    results["costs"] = f"python benchmarks/{Path(__file__).name} --costs"
    return results


def _rows(arms: list[str], options: argparse.Namespace) -> tuple[list[Any], int]:
    """Run all arms; errors and costs are those of the first seed."""
    from compressing.conditions import Seed
    from compressing.costs import costs
    from compressing.losses import losses, sizes
    from compressing.summary import summarise
    from kfac_artifacts.format import dense_bytes, load_artifact

    seeds = [Seed(n, _steps(options)) for n in range(options.seeds)]
    accuracies: dict[str, list[Any]] = {arm: [] for arm in arms}
    for seed in seeds:
        seed.prepare()
        for arm in arms:
            accuracies[arm].append(seed.run(arm))
    rows = summarise(accuracies)
    compressed = [arm for arm in arms if arm != recipes.NONE]
    for arm in compressed:
        rows[arm] |= sizes(seeds[0], arm)
    if not (options.quick or options.accuracy):
        stepped = [arm for arm in compressed if arm in recipes.STEPPED]
        cli_session.say("What a step costs")
        spent = costs(seeds[0], compressed, stepped)
        for arm in compressed:
            rows[arm] |= losses(seeds[0], arm) | spent[arm]
    first = load_artifact(seeds[0].others(next(iter(cli_session.TASKS))), verify=False)
    return list(rows.values()), dense_bytes(first)


def _steps(options: argparse.Namespace) -> int:
    return QUICK_STEPS if options.quick else cli_session.STEPS


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {
        "steps": _steps(options),
        "batch_size": cli_session.BATCH,
        "learning_rate": cli_session.RATE,
        "lambda": cli_session.LAMBDA,
        "every": cli_session.EVERY,
        "modules": cli_session.MODULES,
        "held_out": cli_session.HELD_OUT,
        "threads": torch.get_num_threads(),
    }


def _print(results: dict[str, Any]) -> None:
    from compressing.summary import COLUMNS, COSTS, best, table

    arms = results["arms"]
    print(
        f"\nShare of {results['dense_bytes'] / 1e6:.1f} MB of dense float32 matrices; "
        f"accuracy of the merged model in %, {len(results['seeds'])} seeds,\n"
        "and points lost against float32; relative Frobenius error; penalty along "
        "unpenalised task\nvectors, after / before, and over held-out drift; float32 "
        "penalty of what was trained with\nthe recipe, over that of what was trained "
        "with float32\n"
    )
    print("\n".join(table(arms, COLUMNS)))
    measured = [arm for arm in arms if "held_bytes" in arm]
    if measured:
        print(
            "\nTime of the penalty with its gradient over that of float32; of a "
            "training step with it\nover one without; memory of the factors, and "
            "growth of the process that loads them\n"
        )
        print("\n".join(table(measured, COSTS)))
    row = best(arms)
    print(
        f"\nsmallest that is as good as uncompressed, or best: {row['recipe']}, "
        f"{100 * row['bytes_share']:.2f} % of the bytes, "
        f"{row['points_lost']['linear']:.2f} points lost"
    )


if __name__ == "__main__":
    try:
        main()
    except (assets.AssetError, click.ClickException, KfacError) as error:
        sys.exit(f"Error: {error}")
