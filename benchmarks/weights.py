"""Whether what ``kfac train`` chooses by itself is as good as what one would look for.

all-MiniLM-L6-v2 on groups of three sets of texts, and TinyViT-5M on three of images,
their last layers or all of them: task vectors are trained without the penalty, with the
λ that is chosen (``auto``) and with given ones, at several learning rates, and added up
at α = 1. Printed are, by row, the λ of the three tasks, the accuracy of the sum on
validation data, linearised and as an ordinary model, and that of the pretrained model.
What was trained is kept in ``weights/``, so that another row costs only itself.
"""

import argparse
import os
from itertools import product
from pathlib import Path

import pandas as pd

import assets
from kfac_artifacts.suite import (
    Arm,
    Choice,
    CurvatureSpec,
    MergeSpec,
    Session,
    Store,
    Suite,
    TaskSpec,
)
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import Weight
from suite_data import write_images

WORK = Path("weights")
MOST = {"train": 4000, "dev": 200}
"""Rows of every set to train on, and to measure on."""
GROUPS = {
    "intents": ("stackoverflow", "banking", "hwu"),
    "topics": ("TREC", "Yahoo", "DBPedia"),
    "images": ("cifar10", "fashion", "mnist"),
}
LAST = {
    "images": ("layers.3.*.attn.*", "layers.3.*.mlp.*"),
    "texts": ("encoder.layer.[345].*",),
}
LAYERS = ("last", "all")
HEADER = (
    "| tasks | layers | rate | λ | of the three "
    "| linearised | ordinary | pretrained |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Train, measure and print, row by row."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    WORK.mkdir(exist_ok=True)
    store = Store(WORK / "kept")
    print(HEADER)
    for group, layers in product(options.groups, options.layers):
        session = Session(_suite(group, layers, options.steps), store, "cpu")
        for rate, weight in product(options.rates, options.weights):
            cells = _measured(session, rate, weight)
            row = [group, layers, f"{rate:g}", *cells]
            print(f"| {' | '.join(row)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--groups", nargs="+", choices=GROUPS, default=[*GROUPS])
    add("--layers", nargs="+", choices=LAYERS, default=[*LAYERS])
    add("--rates", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3])
    add(
        "--weights", nargs="+", type=_weight, default=[0.0, "auto", 10.0, 100.0, 1000.0]
    )
    add("--steps", type=int, default=60, help="of 16 examples each")
    return parser.parse_args()


def _weight(text: str) -> Weight:
    return "auto" if text == "auto" else float(text)


def _suite(group: str, layers: str, steps: int) -> Suite:
    """Three tasks, some layers, and training with and without curvature."""
    kind = "images" if group == "images" else "texts"
    if kind == "images":
        write_images(WORK)
    return Suite(
        name=group,
        model="tinyvit:suite_model" if kind == "images" else str(assets.minilm()),
        tasks=tuple(
            _image_task(name) if kind == "images" else _text_task(name)
            for name in GROUPS[group]
        ),
        arms=(Arm("without"), Arm("kfac", curvature="kfac")),
        curvatures=(CurvatureSpec("kfac"),),
        seeds=(0,),
        modules=LAST[kind] if layers == "last" else (),
        max_length=24 if kind == "texts" else None,
        training={"steps": steps, "batch_size": 16},
    )


def _text_task(name: str) -> TaskSpec:
    """Write its tables, if they are not there."""
    places = {}
    for split, most in MOST.items():
        place = places[split] = WORK / f"{name}-{split}.csv"
        if not place.is_file():
            rows = pd.read_csv(assets.bolt(name, split), sep="\t")
            some = rows if len(rows) <= most else rows.sample(most, random_state=0)
            some.to_csv(place, index=False)
    train, dev = str(places["train"]), str(places["dev"])
    return TaskSpec(
        name,
        train,
        dev,
        validation=dev,
        text_columns=("text",),
        template="This text is about {}.",
    )


def _image_task(name: str) -> TaskSpec:
    train, validation = (str(WORK / name / part) for part in ("train", "validation"))
    return TaskSpec(name, train, validation, validation=validation, head="prototypes")


def _measured(session: Session, rate: float, weight: Weight) -> list[str]:
    """The cells of a row; without a penalty all parameters may move."""
    without, kfac = session.suite.arms
    given = weight if isinstance(weight, float) and weight else None
    arm, choice = kfac if weight else without, Choice(rate, given)
    scores = session.scores(arm, choice, 0, MergeSpec(), part="validation")["modes"]
    merged = [f"{100 * scores[m]['absolute'][0]:.1f}" for m in ("linear", "plain")]
    merged.append(f"{100 * scores['linear']['pretrained']:.1f}")
    if weight != "auto":
        return [f"{weight:g}", "", *merged]
    taken = [
        TaskVector.load(session.vector(arm, task.name, choice, 0)).settings["lam"]
        for task in session.suite.tasks
    ]
    return ["auto", ", ".join(f"{weight:.0f}" for weight in taken), *merged]


if __name__ == "__main__":
    main()
