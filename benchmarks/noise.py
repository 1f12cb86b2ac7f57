"""What the noise of differential privacy costs, and what it leaves to an attack.

On all-MiniLM-L6-v2 and real texts, with clip norms of public texts of another kind:

- how close KFAC of the last layer is to the true curvature of held-out texts, by the
  number of examples and by ε (``fidelity.py`` has the measures);
- how many tokens with their places, and whole texts, are read from the A of the first
  attention layer (``privacy.py`` has the attack), again with and without noise.
"""

import argparse
import json
import math
import os
import sys
import time
from itertools import product
from typing import Any

import torch

import assets
import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.estimate import Kfac
from privacy import inputs_of
from reading import claimed, read_weights

TASK, PUBLIC, TOKENS, DIRECTIONS = "stackoverflow", "hwu", 24, 4
DELTA = 1e-6
LAST, FIRST = "encoder.layer.5.*", "encoder.layer.0.attention.self.query"
COUNTS, READ = (256, 1024, 4096), (1, 16, 128, 1024)
EPSILONS = (math.inf, 64.0, 8.0, 1.0)
HELD_OUT = 256


def main() -> None:
    """Compute with noise and without, and print both tables."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    network = kfac.load_network(str(assets.minilm()))
    texts = {
        (task, split): kfac.load_examples(
            str(assets.bolt(task, split)),
            network,
            text_columns=("text",),
            max_length=TOKENS,
        )
        for task, split in ((TASK, "train"), (TASK, "test"), (PUBLIC, "train"))
    }
    results: dict[str, list[dict[str, Any]]] = {"fidelity": [], "attack": []}
    for part, measure, counts in (
        ("fidelity", _fidelity, options.counts),
        ("attack", _attack, options.read),
    ):
        for count, epsilon in product(counts, options.epsilons):
            started = time.perf_counter()
            row = {"examples": count, "epsilon": epsilon}
            row |= measure(network, texts, count, epsilon)
            if not results[part]:
                print("  ".join(f"{name:>9}" for name in row), flush=True)
            results[part].append(row)
            seconds = time.perf_counter() - started
            print("  ".join(map(_cell, row.values())), f"{seconds:6.0f} s", flush=True)
        print()
    if options.json:
        print(json.dumps(results))


def _cell(value: Any) -> str:
    return f"{value:9.3f}" if isinstance(value, float) else f"{value:9}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--counts", nargs="*", type=int, default=list(COUNTS), help="for fidelity")
    add("--read", nargs="*", type=int, default=list(READ), help="for the attack")
    add("--epsilons", nargs="+", type=float, default=list(EPSILONS), help="inf: none")
    add("--quick", action="store_true", help="few examples, two ε")
    add("--json", action="store_true", help="print the results in one last line")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(counts=[64], read=[16], epsilons=[math.inf, 8.0])
    return parser.parse_args()


def _computed(
    network: kfac.Network, texts: Any, count: int, epsilon: float, only: str
) -> Artifact:
    """Compute as an owner would who was told, and went on."""
    noise = kfac.GaussianNoise(epsilon, DELTA, texts[PUBLIC, "train"])
    return kfac.compute(
        network,
        texts[TASK, "train"],
        count=count,
        estimator=Kfac(noise=None if math.isinf(epsilon) else noise),
        only=(only,),
        allow_few=True,
    )


def _fidelity(
    network: kfac.Network, texts: Any, count: int, epsilon: float
) -> dict[str, float | None]:
    artifact = _computed(network, texts, count, epsilon, LAST)
    found = kfac.fidelity(
        artifact, network, texts[TASK, "test"], count=HELD_OUT, directions=DIRECTIONS
    )
    return {
        "error": found.total.error,
        "cosine": found.total.cosine,
        "scale": found.total.best_scale,
        "random": found.directions["random"].agreement.ratio,
        "gradient": found.directions["gradient"].agreement.ratio,
    }


@torch.no_grad()
def _attack(
    network: kfac.Network, texts: Any, count: int, epsilon: float
) -> dict[str, float]:
    artifact = _computed(network, texts, count, epsilon, f"{FIRST}.*")
    train = texts[TASK, "train"]
    batch = train.batch(choose_examples(len(train), count, 0))
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ids = [row[mask.bool()].tolist() for row, mask in rows]
    owned = [{(t, p) for p, t in enumerate(text)} for text in ids]
    true = set.union(*owned)
    A = artifact.factors[f"{FIRST}.A"].to_dense()
    weights = read_weights(A, inputs_of(network.module, TOKENS))
    found = claimed(weights, ids[0][0], [(1.0, count)])
    return {
        "pairs": len(found & true) / len(true),
        "right": len(found & true) / max(len(found), 1),
        "texts": sum(text <= found for text in owned) / len(owned),
    }


if __name__ == "__main__":
    try:
        main()
    except assets.AssetError as error:
        sys.exit(f"Error: {error}")
