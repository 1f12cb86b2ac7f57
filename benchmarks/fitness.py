"""For what a compressed artifact is fit: every recipe by the measure of every use.

The factors of layers of all-MiniLM-L6-v2 on questions of programmers are compressed in
many ways. Of every recipe: the bytes as a share of dense float32; over the factors the
worst and the median of the relative Frobenius error, of that of the damped inverse, of
the overlap of the space of small eigenvalues and of the error of the diagonal; the
largest share of the largest eigenvalue by which a diagonal had to be raised; and the
uses that ``kfac inspect`` calls it fit for.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import assets
import kfac_artifacts as kfac
from kfac_artifacts.compress import judge_uses, spreads
from kfac_artifacts.errors import KfacError
from kfac_artifacts.format import dense_bytes, load_artifact, read_header

TASK, TOKENS = "stackoverflow", 24
RECIPES = (
    "float16",
    "bfloat16",
    "int8",
    "prune-30%",
    "block-8",
    "low-rank-25%",
    "low-rank-trace-99%",
    "low-rank-128",
    "low-rank-32",
    "low-rank-32+int8",
    "low-rank-8+int8",
    "svd-25%",
    "diagonal",
)
QUICK = ("bfloat16", "int8", "low-rank-32+int8", "diagonal")
MEASURES = ("inverse_error", "null_overlap", "diagonal_error")
HEADER = ("recipe", "bytes %", "error", *MEASURES, "lift", "fit for")
PAIRS = ("error", *MEASURES)


def main() -> None:
    """Compress in every way, and print a line for each."""
    options = _options()
    artifact = _computed(options)
    print("  ".join(_cells(HEADER)), flush=True)
    results = []
    for row in _rows(artifact, options.recipes):
        results.append(row)
        print("  ".join(_cells(_shown(row))), flush=True)
    if options.json:
        print(json.dumps({"factors": len(artifact.factors), "results": results}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--layers", default="5", help="which encoder layers: 5, [345], ?")
    add("--examples", type=int, default=1024, help="texts of at most 24 tokens")
    add("--recipes", nargs="+", type=_recipe, default=list(RECIPES))
    add("--quick", action="store_true", help="four recipes")
    add("--json", action="store_true", help="print the results in one last line")
    options = parser.parse_args()
    if options.quick:
        options.recipes = list(QUICK)
    return options


def _recipe(name: str) -> str:
    try:
        return kfac.compress.Recipe.parse(name).name
    except KfacError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _computed(options: argparse.Namespace) -> kfac.Artifact:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    network = kfac.load_network(str(assets.minilm()))
    texts = kfac.load_examples(
        str(assets.bolt(TASK, "train")),
        network,
        text_columns=("text",),
        max_length=TOKENS,
    )
    return kfac.compute(
        network,
        texts,
        count=options.examples,
        only=(f"encoder.layer.{options.layers}.*",),
    )


def _rows(artifact: kfac.Artifact, recipes: list[str]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        for recipe in recipes:
            place = Path(directory) / recipe
            kfac.save_artifact(artifact, place, recipe=recipe, fitness=True)
            yield {"recipe": recipe} | _row(artifact, place)


def _row(before: kfac.Artifact, place: Path) -> dict[str, Any]:
    header = read_header(place)
    losses = header.provenance.losses
    errors = [losses[n].error if n in losses else 0.0 for n in before.factors]
    found = spreads(load_artifact(place))
    largest = {n: f.eigenvalue_range()[1] for n, f in before.factors.items()}
    lifts = [loss.lift / largest[name] for name, loss in losses.items()]
    return {
        "bytes_share": header.nbytes / dense_bytes(before),
        "error": (max(errors), median(errors)),
        **{m: (found[m].worst, found[m].median) for m in MEASURES},
        "lift": max(lifts, default=0.0),
        "fit": [use.name for use in judge_uses(header) if use.fit],
    }


def _shown(row: dict[str, Any]) -> list[str]:
    pairs = [row[name] for name in PAIRS]
    return [
        row["recipe"],
        f"{100 * row['bytes_share']:.2f}",
        *(" / ".join("-" if x is None else f"{x:.3g}" for x in p) for p in pairs),
        f"{row['lift']:.1e}",
        ", ".join(row["fit"]),
    ]


def _cells(values: Any) -> Iterator[str]:
    widths = (18, 7, 18, 16, 16, 19, 7, 0)
    for value, width in zip(values, widths, strict=True):
        yield str(value).ljust(width)


if __name__ == "__main__":
    main()
