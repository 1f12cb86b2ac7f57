"""What the whole of B costs beside one draw of it: the paper's Fig. 6b.

``kfac.compute`` of every layer of all-MiniLM-L6-v2 and texts of random tokens, on one
core: 8 texts with a cotangent for each of the 384 numbers of f, and with one that is
drawn; then one draw for each of 128 texts, times 8 tasks. Times are those of the
processor, the proof of what is covered among them. ``--keep`` writes them to
``results/``, for RESULTS.md.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch

import assets
import kfac_artifacts as kfac
from kfac_artifacts.artifact import Cotangents

RESULTS = Path(__file__).parent / "results" / "draws.json"
FEW, TASK, TASKS, TOKENS, WORDS = 8, 128, 8, 32, 30522
DRAWN, EXACT = Cotangents("mc", 1, 0), Cotangents("exact", None, 0)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--keep", action="store_true", help="in results/, for RESULTS.md")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    network = kfac.load_network(str(assets.minilm()))
    seconds(network, FEW, DRAWN)  # warms up
    found = {
        "exact": seconds(network, FEW, EXACT),
        "drawn": seconds(network, FEW, DRAWN),
        "tasks": TASKS * seconds(network, TASK, DRAWN),
    }
    print(
        f"{FEW} texts: exact {found['exact']:.1f} s, one draw {found['drawn']:.1f} s; "
        f"{TASKS} tasks of {TASK} texts, one draw: {found['tasks']:.0f} s"
    )
    if options.keep:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def seconds(network: kfac.Network, count: int, cotangents: Cotangents) -> float:
    """Compute the curvature of some texts once, and give the processor's seconds."""
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, WORDS, (count, TOKENS), generator=drawn)
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    texts = kfac.TensorExamples(tensors, "random tokens")
    began = time.process_time()
    kfac.compute(
        network, texts, count=count, cotangents=cotangents, allow_few=True, batch_size=8
    )
    return time.process_time() - began


if __name__ == "__main__":
    main()
