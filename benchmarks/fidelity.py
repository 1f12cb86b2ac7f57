"""How far the estimators are from the true curvature, on data they have not seen.

The curvature of a pretrained model, all-MiniLM-L6-v2 on questions of programmers or
TinyViT on small photographs, is estimated from a few training examples in every way
there is, and compared with that of test examples: the relative Frobenius error and the
cosine of all blocks together and without Gramian blocks, which are the same for most
estimators; and predicted / true drift along random directions and along gradients.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import product
from typing import Any, TypeAlias

import assets
import kfac_artifacts as kfac
import tinyvit
from kfac_artifacts.artifact import GramianBlock
from kfac_artifacts.estimate import (
    DiagonalGramian,
    Ekfac,
    Inputs,
    Kfac,
    KfacReduce,
    Nearest,
)
from kfac_artifacts.fidelity import Fidelity
from kfac_artifacts.network import Examples

Case: TypeAlias = tuple[kfac.Network, Examples, Examples]
"""A network, its training data and its test data."""

TASK, TOKENS, IMAGES, DIRECTIONS = "stackoverflow", 24, 1024, 4
ESTIMATORS = {
    "kfac": Kfac(),
    "kfac-reduce": KfacReduce(),
    "ekfac": Ekfac(),
    "diagonal": DiagonalGramian(),
    "inputs": Inputs(),
    "nearest": Nearest(),
    "nearest-plain": Nearest(shrinkage=False),
    "nearest-2": Nearest(terms=2),
}
COTANGENTS = ("mc", "orthogonal")
COUNTS, HELD_OUT = (128, 256), 512
QUICK: dict[str, Any] = {"counts": [64], "cotangents": ["orthogonal"], "held_out": 96}
HEADER = ("estimator", "cotangents", "examples", "error", "+/-", "cosine", "scale")
PRODUCTS = ("products: share", "error", "cosine", "scale")
RATIOS = ("random", "gradient", "gradient, single modules")


def main() -> None:
    """Estimate, compare and print."""
    options = _options()
    network, train, test = MODELS[options.model]()
    print("  ".join(_cells([*HEADER, *PRODUCTS, *RATIOS, "seconds"])), flush=True)
    cells = product(options.estimators, options.cotangents, options.counts)
    results = []
    for cell in cells:
        results.append(_measure(network, train, test, cell, options))
        print("  ".join(_cells(results[-1].values())), flush=True)
    if options.json:
        print(json.dumps({"held_out": options.held_out, "results": results}))


def _minilm() -> Case:
    """A sentence encoder and questions of programmers."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    network = kfac.load_network(str(assets.minilm()))
    train, test = (
        kfac.load_examples(
            str(assets.bolt(TASK, split)),
            network,
            text_columns=("text",),
            max_length=TOKENS,
        )
        for split in ("train", "test")
    )
    return network, train, test


def _tinyvit() -> Case:
    """An image encoder and photographs of ten kinds."""
    train, test = (
        kfac.TensorExamples(
            {"pixel_values": tinyvit.images(split, IMAGES)[0]}, f"cifar10, {split}"
        )
        for split in ("train", "test")
    )
    return tinyvit.network(tinyvit.pretrained()), train, test


MODELS: dict[str, Callable[[], Case]] = {"minilm": _minilm, "tinyvit": _tinyvit}


def _measure(
    network: kfac.Network,
    train: Examples,
    test: Examples,
    cell: tuple[str, str, int],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Estimate in one way, and compare; the seconds are those of the estimation."""
    name, cotangents, count = cell
    started = time.perf_counter()
    artifact = kfac.compute(
        network,
        train,
        count=count,
        cotangents=kfac.Cotangents(cotangents, 1, options.seed),
        estimator=ESTIMATORS[name],
        tables=True,  # nothing is published
        allow_few=True,
    )
    seconds = time.perf_counter() - started
    found = kfac.fidelity(
        artifact,
        network,
        test,
        count=options.held_out,
        directions=DIRECTIONS,
        seed=options.seed,
    )
    which = {"estimator": name, "cotangents": cotangents, "examples": count}
    return {**which, **_summary(found), "seconds": seconds}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", choices=MODELS, default="minilm")
    add("--quick", action="store_true", help="few examples, a fifth of the table")
    add("--json", action="store_true", help="print the results in one last line")
    add("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS))
    add("--cotangents", nargs="+", choices=COTANGENTS, default=list(COTANGENTS))
    add("--counts", nargs="+", type=int, default=list(COUNTS), help="training examples")
    add("--held-out", type=int, default=HELD_OUT, help="test examples")
    add("--seed", type=int, default=0)
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def _summary(found: Fidelity) -> dict[str, float | None]:
    gradient = found.directions["gradient"]
    ratios = (found.directions["random"].agreement, gradient.agreement)
    return {
        "error": found.total.error,
        "uncertainty": found.total.uncertainty,
        "cosine": found.total.cosine,
        "best_scale": found.total.best_scale,
        **_of_products(found),
        "random": ratios[0].ratio,
        "gradient": ratios[1].ratio,
        "gradient_modules": gradient.modules.ratio,
    }


def _of_products(found: Fidelity) -> dict[str, float | None]:
    """What the estimators differ in; Gramian blocks are the same for all of them."""
    kinds = [c for kind, c in found.kinds.items() if kind != GramianBlock.kind]
    size = sum(c.norm**2 for c in kinds)
    ours = sum(c.predicted_norm**2 for c in kinds)
    shared = sum((c.cosine or 0.0) * c.norm * c.predicted_norm for c in kinds)
    return {
        "product_share": size / found.total.norm**2,
        "product_error": (sum(c.lost for c in kinds) / size) ** 0.5,
        "product_cosine": shared / (size * ours) ** 0.5,
        "product_best_scale": shared / ours,
    }


def _cells(values: Any) -> list[str]:
    """Write one line of the table."""
    widths = [max(len(title), 13 if i < 1 else 7) for i, title in enumerate(HEADER)]
    widths += [max(len(title), 7) for title in (*PRODUCTS, *RATIOS)] + [7]
    words = [
        f"{value:.3f}" if isinstance(value, float) else str(value) for value in values
    ]
    return [word.rjust(width) for word, width in zip(words, widths, strict=True)]


if __name__ == "__main__":
    main()
