"""What curvature costs language models, beside what it cannot do without, and peers.

- ``inputs_vs_forward``: the time of ``kfac compute --estimator inputs``, all of it,
  as a multiple of a forward pass over the same batches, head included;
- ``inputs_vs_floor``: the same as a multiple of what nobody can do without: a forward
  pass up to the head, and half a product for each distinct A;
- ``lm_fisher_vs_floor``: that of ``kfac`` with ``lm-fisher`` as a multiple of its
  floor: forward, backward to activations, and half a product for each factor;
- ``speedup_vs_bergson``, ``speedup_vs_kronfluence``: how many times as long other
  programs take for the covariances of the same layers, null where one is not installed
  (``make .venv/peers``). That they find the same is checked in the run;
- ``lora_step_overhead``: the share by which the penalty lengthens a step of an adapter
  of ``peft`` in all linear maps, at 16 texts.

Tools have a process each, with its own peak memory, and take turns; so do steps with
and without the penalty. Times are those of the processor.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch

import kfac_artifacts as kfac
from estimation.runner import measure, missing_peers
from kfac_artifacts.sources import output_map
from predicting.models import REAL, SIZES, Case, language_model
from predicting.report import PEERS, summarise, table

BATCH, TOKENS, RANK = 16, 64, 8
TOLERANCE = 1e-3  # of a factor, relative; float32 in another order gives 1e-6
QUICK = Case("small", examples=256, tokens=64, batch_size=32)  # as many as usual
FULL = Case(REAL, examples=64, tokens=128, batch_size=8)
CURVATURE = (
    "inputs_vs_forward",
    "inputs_vs_floor",
    "lm_fisher_vs_floor",
    *(f"speedup_vs_{peer}" for peer in PEERS),
)
STEP = "lora_step_overhead"


def main() -> None:
    """Measure what was asked for, and print."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    case = _case(options)
    found: dict[str, Any] = {}
    if set(options.only) & set(CURVATURE):
        found |= curvature(case, options.rounds)
    if STEP in options.only:
        found[STEP] = lora_step_overhead(case.model, turns=9 if options.quick else 5)
        print(f"{STEP}: {found[STEP]:.4f}", flush=True)
    if options.json:
        print(json.dumps(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="random weights of a smaller model")
    add("--json", action="store_true", help="print the results in one last line")
    add("--only", choices=(*CURVATURE, STEP), nargs="*", default=[*CURVATURE, STEP])
    add("--model", choices=(*SIZES, REAL), help="another one than usual")
    add("--examples", type=int, help="texts of random tokens")
    add("--tokens", type=int, help="of every text")
    add("--batch-size", type=int)
    add("--rounds", type=int, default=2, help="turns of each tool; the best counts")
    return parser.parse_args()


def _case(options: argparse.Namespace) -> Case:
    """What the user says comes first."""
    names = ("model", "examples", "tokens", "batch_size")
    usual = QUICK if options.quick else FULL
    chosen = {name: getattr(options, name) or getattr(usual, name) for name in names}
    if chosen["examples"] % chosen["batch_size"]:
        raise SystemExit(
            f"{chosen['examples']} texts are no multiple of the batch size "
            f"{chosen['batch_size']}; choose others with --examples and --batch-size"
        )
    return Case(**chosen)


def curvature(case: Case, rounds: int) -> dict[str, Any]:
    """Compare estimators with passes over the same texts, and with other programs.

    Args:
        case: What to measure.
        rounds: How often each tool works through all texts.

    Returns:
        The ratios of ``CURVATURE``, and what they are made of.

    Raises:
        SystemExit: If a peer finds something else.
    """
    missing = missing_peers(PEERS)
    for peer, command in missing.items():
        print(f"{peer} is not installed, so it is not compared with: {command}")
    present = [peer for peer in PEERS if peer not in missing]
    tools = ["forward", "floor_inputs", "ours_inputs", "floor", "ours", *present]
    found = measure(case, tools, rounds, "predicting")
    for peer, difference in found.difference.items():
        if not difference < TOLERANCE:
            raise SystemExit(
                f"a factor of {peer} differs from ours by {difference:.1e}, so these "
                "would be times of wrong numbers"
            )
    summary = summarise(found)
    print(table(summary))
    for name in CURVATURE:
        told = "not measured" if summary[name] is None else f"{summary[name]:.3f}"
        print(f"{name}: {told}", flush=True)
    return summary


def lora_step_overhead(model: str, turns: int) -> float:
    """By how much the penalty lengthens a step, as a share of it.

    Args:
        model: A key of ``SIZES``, or ``smollm2``.
        turns: How many steps there are of each kind.

    Returns:
        0.05 where a step with the penalty takes 1.05 times as long as one without.
    """
    from peft import LoraConfig, get_peft_model

    module = language_model(model)
    f = output_map(module, "lm-fisher")
    words = module.config.vocab_size
    ids = torch.randint(4, words, (BATCH, TOKENS), generator=torch.Generator())
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    few = {k: v[:, :8] for k, v in batch.items()}
    network = kfac.Network(module, f, "benchmark")
    curvature = kfac.compute(
        network, kfac.TensorExamples(few, "random"), count=BATCH, allow_few=True
    )
    adapted = get_peft_model(module, LoraConfig(r=RANK, target_modules="all-linear"))
    penalty = kfac.ModelPenalty(adapted, curvature)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    labels = batch | {"labels": ids}

    def step(hold: Callable[[], object]) -> None:
        adapted(**labels).loss.backward()
        hold()
        optimizer.step()
        optimizer.zero_grad()

    free, held = alternating(
        lambda: step(lambda: None),
        lambda: step(penalty.backward),
        turns=turns,
    )
    return held / free - 1


def alternating(*actions: Callable[[], None], turns: int) -> list[float]:
    """Median processor seconds of actions that take turns, after one turn each."""
    times: list[list[float]] = [[] for _ in actions]
    rounds = islice(cycle(enumerate(actions)), (turns + 1) * len(actions))
    for number, action in rounds:
        start = time.process_time()
        action()
        times[number].append(time.process_time() - start)
    return [median(own[1:]) for own in times]


if __name__ == "__main__":
    main()
