"""What the benchmarks on three tasks share: texts, settings, and the ``kfac`` command.

all-MiniLM-L6-v2, its last three layers, and three labelled sets of texts. Everything
lies in one working directory, in which the commands run.
"""

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import assets

TASKS = {
    "stackoverflow": "questions of programmers, 20 tags",
    "banking": "questions to a bank, 77 intents",
    "hwu": "requests to a home assistant, 64 intents",
}
MODEL = "all-MiniLM-L6-v2"
MODEL_ID = f"sentence-transformers/{MODEL}"
MODULES = "encoder.layer.[345].*"
TEMPLATE = "This text is about {}."
STEPS, BATCH, TOKENS = 100, 16, 24
RATE, LAMBDA, EVERY = 1e-3, 100, 2
HELD_OUT, DEV = 500, 100
MODES = {"linear": "linearised, as trained", "plain": "as an ordinary model"}


def prepare(work: Path) -> None:
    """Fetch the weights and the texts: of every owner's, to train, choose and test."""
    say(f"Fetching {MODEL} and three labelled sets of texts")
    import pandas as pd

    work.mkdir(parents=True, exist_ok=True)
    if not (work / MODEL).is_symlink():
        (work / MODEL).symlink_to(assets.minilm().resolve())
    for task, what in TASKS.items():
        (work / task).mkdir(exist_ok=True)
        for split, most in (("train", None), ("dev", DEV), ("test", HELD_OUT)):
            rows = pd.read_csv(assets.bolt(task, split), sep="\t")
            if most is not None:
                rows = rows.sample(min(most, len(rows)), random_state=0)
            rows.to_csv(work / task / f"{split}.csv", index=False)
        print(f"  {work}/{task}/: {what}")


def compute(task: str, output: str, seed: int) -> None:
    """Compute a task's curvature, as the paper does."""
    kfac(
        f"compute {MODEL} {task}/train.csv -o {output} "
        f"--model-id {MODEL_ID} --data-id {task} --modules {MODULES} "
        f"--max-length {TOKENS} --cotangents mc "
        f"--text-column text --seed {seed} --force"
    )


def train(
    task: str,
    output: str,
    curvature: str,
    seed: int,
    *,
    lam: float = LAMBDA,
    rate: float = RATE,
    steps: int = STEPS,
) -> None:
    """Train a task vector; ``curvature`` is an artifact, and options if need be."""
    kfac(
        f"train {MODEL} {task}/train.csv -o {output} --curvature {curvature} "
        f"--lambda {lam} --every {EVERY} --steps {steps} --batch-size {BATCH} "
        f"--lr {rate} --max-length {TOKENS} --text-column text --seed {seed} "
        "--force",
        f"--template={TEMPLATE}",
    )


def evaluate(directory: str, split: str = "test") -> dict[str, Any]:
    """Measure the task vectors in a directory, each alone and all added."""
    pairs = " ".join(f"{directory}/{task}={task}/{split}.csv" for task in TASKS)
    said = kfac(
        f"evaluate {MODEL} {pairs} --text-column text --max-length {TOKENS} --json"
    )
    return json.loads(said)


def kfac(command: str, *last: str, lines: int = 1) -> str:
    """Run a ``kfac`` command, show it and the last ``lines`` of what it says."""
    from kfac_cli.main import main as run

    words = [*command.split(), *last]
    print("  $ kfac " + " ".join(w if " " not in w else f"'{w}'" for w in words))
    output = io.StringIO()
    started = time.perf_counter()
    with contextlib.redirect_stdout(output):
        run(words, standalone_mode=False)
    said = output.getvalue()
    seconds = time.perf_counter() - started
    shown = [] if "--json" in words else said.strip().splitlines()[-lines:]
    print("    " + "\n    ".join(shown) + f"  [{seconds:.0f} s]", flush=True)
    return said


def say(text: str) -> None:
    """Begin a part of the cli_session."""
    print(f"\n{text}", flush=True)
