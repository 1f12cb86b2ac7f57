"""What can be read from an artifact about the texts that it was computed from.

Two attacks, by somebody who has nothing but the artifact and the public model, on
all-MiniLM-L6-v2 and real texts: tokens are counted from the A of the embedding table,
which ``kfac compute`` leaves out unless it is told otherwise; and tokens with their
places are read from the A of the first attention layer, which is left in. Both are
made on one owner's artifact, on the same compressed by ``small``, and on one that was
merged from three owners.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import assets
import kfac_artifacts as kfac
from kfac_artifacts.chosen import choose_examples
from reading import Inputs, Pair, claimed, read_weights

TASKS = ("banking", "hwu", "stackoverflow")
COUNTS = (1, 4, 16, 64, 128, 256)
TOKENS = 24
TABLE = "embeddings.word_embeddings"
LAYER = "encoder.layer.0.attention.self.query"
FORMS = ("as computed", "small", "merged")


@dataclass(frozen=True)
class Owner:
    """An owner's artifact, and what it should not show: every text's tokens."""

    artifact: kfac.Artifact
    texts: list[list[int]]

    @property
    def pairs(self) -> list[set[Pair]]:
        """Every text's tokens with their places."""
        return [{(t, p) for p, t in enumerate(text)} for text in self.texts]


def main() -> None:
    """Attack, and print what was read."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    network = kfac.load_network(str(assets.minilm()))
    print(f"{'examples':>8}  {'artifact':12}{'counts':>9}", end="")
    print(f"{'pairs':>9}{'right':>9}{'texts':>9}{'s':>7}")
    results = []
    for count in options.counts:
        owners = [_owner(network, task, count) for task in TASKS]
        for form in options.forms:
            started = time.perf_counter()
            row = _attack(network, owners, form)
            row |= {"examples": count, "form": form}
            results.append(row)
            cells = "".join(
                f"{100 * row[what]:8.1f}%"
                for what in ("counts", "pairs", "right", "texts")
            )
            seconds = time.perf_counter() - started
            print(f"{count:8}  {form:12}{cells}{seconds:7.0f}", flush=True)
    print(
        "\ncounts: tokens whose exact number was read from the table's A\n"
        "pairs: tokens with their places that were read from the first layer's A\n"
        "right: how many of the pairs that were claimed occur\n"
        "texts: those of which every token was read in its place"
    )
    if options.json:
        print(json.dumps(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--counts", nargs="+", type=int, default=list(COUNTS), help="examples")
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    add("--quick", action="store_true", help="the fewest examples, as computed")
    add("--json", action="store_true", help="print the results in one last line")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(counts=[COUNTS[0]], forms=[FORMS[0]])
    return parser.parse_args()


def _owner(network: kfac.Network, task: str, count: int) -> Owner:
    """Compute as an owner would who was told, and went on."""
    examples = kfac.load_examples(
        str(assets.bolt(task, "train")),
        network,
        text_columns=("text",),
        max_length=TOKENS,
    )
    artifact = kfac.compute(
        network,
        examples,
        count=count,
        only=(f"{TABLE}.*", f"{LAYER}.*"),
        tables=True,
        allow_few=True,
    )
    batch = examples.batch(choose_examples(len(examples), count, 0))
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return Owner(artifact, [ids[mask.bool()].tolist() for ids, mask in rows])


def _attack(
    network: kfac.Network, owners: Sequence[Owner], form: str
) -> dict[str, float]:
    """Attack an artifact; shares of what was read."""
    owners = owners if form == "merged" else owners[:1]
    artifacts = [owner.artifact for owner in owners]
    artifact = kfac.merge(artifacts) if form == "merged" else artifacts[0]
    if form == "small":
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "small"
            kfac.save_artifact(artifact, place, recipe=kfac.Recipe.parse("small"))
            artifact = kfac.load_artifact(place)
            return _read(network, owners, artifact)
    return _read(network, owners, artifact)


@torch.no_grad()
def _read(
    network: kfac.Network, owners: Sequence[Owner], artifact: kfac.Artifact
) -> dict[str, float]:
    size = artifact.provenance.size
    sizes = [
        (source.data.size / size, source.data.examples)
        for source in artifact.provenance.sources
    ]
    texts = [text for owner in owners for text in owner.pairs]
    true = set.union(*texts)
    first = owners[0].texts[0][0]
    A = artifact.factors[f"{LAYER}.A"].to_dense()
    found = claimed(read_weights(A, inputs_of(network.module, TOKENS)), first, sizes)
    return {
        "counts": _counted(artifact, owners),
        "pairs": len(found & true) / len(true),
        "right": len(found & true) / max(len(found), 1),
        "texts": sum(text <= found for text in texts) / len(texts),
    }


def _counted(artifact: kfac.Artifact, owners: Sequence[Owner]) -> float:
    """Share of the tokens that one owner alone has whose number is read exactly."""
    diagonal = artifact.factors[f"{TABLE}.A"].diagonal()
    counts = [Counter(t for text in owner.texts for t in text) for owner in owners]
    right = total = 0
    for i, own in enumerate(counts):
        others = set().union(*(c for j, c in enumerate(counts) if j != i))
        alone = [token for token in own if token not in others]
        once = min((float(diagonal[t]) for t in alone if own[t] == 1), default=0.0)
        right += sum(once and round(float(diagonal[t]) / once) == own[t] for t in alone)
        total += len(alone)
    return right / total


def inputs_of(module: Any, places: int) -> Inputs:
    """What the first layer of a BERT is given for every token at a place, and 1."""
    tokens = torch.arange(module.config.vocab_size)[:, None]

    @torch.no_grad()
    def at(place: int) -> Tensor:
        there = torch.full_like(tokens, place)
        h = module.embeddings(input_ids=tokens, position_ids=there)[:, 0]
        return torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], 1)

    return Inputs(at, places)


if __name__ == "__main__":
    try:
        main()
    except assets.AssetError as error:
        sys.exit(f"Error: {error}")
