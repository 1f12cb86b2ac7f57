"""What curvature costs language models: one measurement after the other.

``lora_step_overhead``: the share by which the penalty lengthens a step of an adapter
of ``peft`` in all linear maps, at 16 texts. Steps with and without it take turns; times
are those of the processor, and medians.
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
from kfac_artifacts.sources import output_map

BATCH, TOKENS, RANK = 16, 64, 8
WIDTHS = {"hidden_size": 384, "intermediate_size": 1024, "vocab_size": 4096}
SHAPE = {"num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2}


def main() -> None:
    """Measure what was asked for, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="random weights of a smaller model")
    add("--json", action="store_true", help="print the results in one last line")
    add("--only", choices=MEASUREMENTS, nargs="*", default=[*MEASUREMENTS])
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    for name in options.only:
        found[name] = MEASUREMENTS[name](quick=options.quick)
        print(f"{name}: {found[name]:.4f}", flush=True)
    if options.json:
        print(json.dumps(found))


def language_model(*, quick: bool) -> Any:
    """A model of random weights, or SmolLM2-135M-Instruct."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if not quick:
        from assets import smollm2

        return AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32)
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**WIDTHS, **SHAPE)).eval()


def lora_step_overhead(*, quick: bool) -> float:
    """By how much the penalty lengthens a step, as a share of it."""
    from peft import LoraConfig, get_peft_model

    module = language_model(quick=quick)
    f = output_map(module, "lm-fisher")
    words = module.config.vocab_size
    ids = torch.randint(4, words, (BATCH, TOKENS), generator=torch.Generator())
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    few = {k: v[:, :8] for k, v in batch.items()}
    network = kfac.Network(module, f, "benchmark")
    curvature = kfac.compute(
        network, kfac.TensorExamples(few, "random"), count=BATCH, allow_few=True
    )
    model = get_peft_model(module, LoraConfig(r=RANK, target_modules="all-linear"))
    penalty = kfac.ModelPenalty(model, curvature)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    labels = batch | {"labels": ids}

    def step(hold: Callable[[], object]) -> None:
        model(**labels).loss.backward()
        hold()
        optimizer.step()
        optimizer.zero_grad()

    free, held = alternating(
        lambda: step(lambda: None),
        lambda: step(penalty.backward),
        turns=9 if quick else 5,
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


MEASUREMENTS: dict[str, Callable[..., float]] = {
    "lora_step_overhead": lora_step_overhead,
}


if __name__ == "__main__":
    main()
