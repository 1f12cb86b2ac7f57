"""What fine-tuning a language model costs of what it could do, and what is kept.

SmolLM2-135M-Instruct learns, by LoRA on its query and value projections, to name the
class of a text: instructions made of a labelled set. Measured before and after: the
accuracy of the task (the class that the model writes, greedily, if it may write names
of classes alone), and what should stay: the loss on general texts of three kinds (of an
encyclopaedia, of questions, and of newsgroups), two tasks that nobody trained, and
short instructions with checkable answers. *General loss* is that on newsgroups: neither
curvature nor replay has any of them; both have encyclopaedia and questions.

Arms: ``lora`` alone; the penalty τᵀGτ of curvature on general texts by ``diagonal``
(EWC), ``inputs`` (A alone, B = I), ``kfac``, ``nearest``, ``ekfac``, ``kfac-small``
(compressed) and ``kfac-few`` (of an eighth of the texts); of ``kfac-talks``, which are
questions and what the model itself answers, and of ``kfac-both``, the two merged; and
``replay``, which mixes the general texts themselves in: the reference that needs data.
A penalty's λ is given in nats: what the adapter of LoRA alone would pay at that λ, so
that the same few strengths suit all curvature.

Learning rate and strength of every arm are chosen with seed 0 on validation data: all
strengths at the rate that was chosen for LoRA, then the other rates at the best
strength, by one rule: of the settings whose task loss is at most that of LoRA's best
learning rate plus 5 % of what that gained, the one with the least general loss (if an
arm has none, the rates are tried where it learned most). LoRA alone at all rates is
among the settings of every arm, as λ = 0, so that all are compared at equal task loss;
an arm that keeps nothing gets LoRA's own numbers. Test data are measured with the
chosen settings alone, by all seeds. ``kept`` is the share of what LoRA alone lost in
general loss that an arm does not lose; it is null where LoRA lost nothing.

Everything is kept in ``forgetting/`` under a key of all that decides it: a run that was
cut off goes on, and an arm or a seed more costs only itself. Remove it to begin anew.
The whole curve of task against forgetting is in its ``results.json``, and drawn by
``--plot``. ``--quick`` is short trainings at the rate that was chosen for LoRA, in
``forgetting/quick/``: two penalties and one seed, unless ``--arms`` and ``--seeds`` say
more.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import assets
from kfac_artifacts.errors import KfacError
from kfac_artifacts.plotting import check_plottable

WORK = Path("forgetting")
RESULTS = "results.json"
QUICK_ARMS = ("lora", "inputs", "kfac")


def main() -> None:
    """Train and measure what is not there yet, and report."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.plot:
        check_plottable(options.plot)
    work = WORK / "quick" if options.quick else WORK
    results = _measure(options, work)
    file = work / RESULTS
    file.write_text(json.dumps(results, indent=1) + "\n")
    _print(results)
    print(f"\n{file} was made by {results['command']}, in {results['seconds']} s")
    if options.plot:
        from keeping.figure import draw

        draw(results, options.plot)
    if options.json:
        print(json.dumps({k: results[k] for k in ("task_points", "kept")}))


def _options() -> argparse.Namespace:
    from keeping.sizes import ARMS
    from keeping.texts import TASKS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--task", choices=TASKS, default=TASKS[0], help="what is learned")
    add("--arms", choices=ARMS, nargs="+", help="lora is always one; default: all")
    add("--seeds", type=int, help="how many, from 0; default 3")
    add(
        "--quick",
        action="store_true",
        help="short trainings and few settings; unless told, two penalties, one seed",
    )
    add("--plot", type=Path, metavar="FILE", help="draw task against forgetting")
    add("--json", action="store_true", help="print the shares in one last line")
    options = parser.parse_args()
    if options.seeds is None:
        options.seeds = 1 if options.quick else 3
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    if options.arms is None:
        options.arms = list(QUICK_ARMS if options.quick else ARMS)
    return options


def _measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    import torch

    from keeping.choice import summary, verdict
    from keeping.sizes import QUICK, Sizes
    from keeping.trials import MODEL_ID, Trials

    started, words = time.perf_counter(), [Path(__file__).name, *sys.argv[1:]]
    sizes = QUICK if options.quick else Sizes()
    trials = Trials(work, assets.smollm2(), options.task, sizes)
    before = {part: trials.pretrained(part) for part in ("choosing", "reported")}
    curve, chosen = _search(options, sizes, trials, before["choosing"]["task_loss"])
    reported = {
        arm: [trials.measured(s, seed, "reported") for seed in range(options.seeds)]
        for arm, s in chosen.items()
    }
    found = summary(reported, before["reported"])
    return {
        "command": f"python benchmarks/{' '.join(words)}",
        "model": MODEL_ID,
        "task": options.task,
        "seeds": list(range(options.seeds)),
        "sizes": asdict(sizes),
        "threads": torch.get_num_threads(),
        "pretrained": before,
        "curve": [{**asdict(s), **values} for s, values in curve.items()],
        "arms": {
            arm: {
                "chosen": asdict(s),
                "validation": curve[s],
                "reported": reported[arm],
            }
            for arm, s in chosen.items()
        },
        **found,
        "verdict": verdict(found),
        "seconds": round(time.perf_counter() - started),
    }


def _search(
    options: argparse.Namespace, sizes: Any, trials: Any, pretrained: float
) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Try all settings on validation data; give what was found, and what is chosen."""
    from keeping.choice import best_loss, choose, other_rates, strengths
    from keeping.sizes import LORA
    from keeping.trials import Setting, named

    def tried(some: list[Any]) -> dict[Any, Any]:
        found = {}
        for setting in some:
            found[setting] = trials.measured(setting, 0, "choosing")
            losses = found[setting]
            print(
                f"{named(setting)}: task {losses['task_loss']:.3f}, "
                f"general {losses['general_loss']:.3f}",
                flush=True,
            )
        return found

    alone = tried([Setting(LORA, rate) for rate in sizes.rates])
    best = alone[best_loss(alone)]["task_loss"]
    chosen = {LORA: choose(alone, pretrained, best)}
    curve = dict(alone)
    for arm in options.arms:
        if arm != LORA:
            weigh = partial(trials.weight, arm, unpenalised=chosen[LORA])
            own = tried(strengths(arm, sizes, weigh, chosen[LORA].rate))
            held = choose(own, pretrained, best)
            own |= tried(other_rates(held, sizes))
            chosen[arm] = choose(alone | own, pretrained, best)
            curve |= own
    return curve, chosen


def _print(results: dict[str, Any]) -> None:
    from keeping.texts import UNSEEN

    pretrained, seeds = results["pretrained"]["reported"], len(results["seeds"])
    print(
        f"\n{results['task']}, test data, {seeds} seed{'s' * (seeds > 1)}: accuracy "
        "of the task, loss per token of an answer,\naccuracy of other tasks, "
        "instructions followed in %, and loss per token of general texts\n"
        f"(no arm has {UNSEEN}); and the share of what LoRA alone lost there that is "
        "kept\n"
    )
    print(
        f"{'':12}{'task':>7}{'loss':>8}"
        + "".join(f"{task:>9}" for task in pretrained["others"])
        + f"{'follows':>9}"
        + "".join(f"{kind:>10}" for kind in pretrained["general"])
        + f"{'kept':>8}  rate, strength"
    )
    print(_line("pretrained", [pretrained], None, ""))
    for arm, row in results["arms"].items():
        chosen = row["chosen"]
        how = f"{chosen['rate']:g}, {chosen['strength']:g}"
        if chosen["arm"] != arm:
            how += " (nothing better than LoRA alone)"
        print(_line(arm, row["reported"], results["kept"].get(arm), how))
    print(f"\n{results['verdict']}")


def _line(name: str, found: list[Any], kept: float | None, how: str) -> str:
    """Means over the seeds, in columns."""
    task, loss, follows = (
        fmean(one[key] for one in found)
        for key in ("task", "task_loss", "instructions")
    )
    others, general = _means(found, "others"), _means(found, "general")
    share = "-" if kept is None else f"{100 * kept:.0f} %"
    line = f"{name:12}{task:7.1f}{loss:8.3f}"
    line += "".join(f"{value:9.1f}" for value in others) + f"{follows:9.1f}"
    line += "".join(f"{value:10.3f}" for value in general)
    return f"{line}{share:>8}  {how}".rstrip()


def _means(found: list[Any], key: str) -> list[float]:
    """Means over the seeds of each of several numbers."""
    return [fmean(one[key][name] for one in found) for name in found[0][key]]


if __name__ == "__main__":
    try:
        main()
    except (assets.AssetError, KfacError) as error:
        sys.exit(f"Error: {error}")
