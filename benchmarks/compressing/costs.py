"""What a compressed artifact costs while training: seconds and memory.

Seconds are those of the processor, which do not count what others do to it meanwhile,
and all recipes take turns, so that a slow moment hits them alike.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

import cli_session
import kfac_artifacts as kfac
from compressing import models
from compressing.conditions import Seed
from compressing.recipes import DENSE, NONE

TRAINER = next(iter(cli_session.TASKS))
PENALTY_ROUNDS, STEP_ROUNDS, STEPS = 11, 3, 6
WARM_UP = 2
"""Steps of every turn that do not count."""


def costs(
    seed: Seed, recipes: Sequence[str], steps_of: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Measure all recipes against the ends.

    Args:
        seed: The seed.
        recipes: What to measure, the uncompressed artifact among them.
        steps_of: Recipes for which whole training steps are measured as well.

    Returns:
        By recipe: ``penalty`` (what ``KfacPenalty.backward`` adds to gradients that
        the loss has left, as in training, over the uncompressed one), ``step``
        (over a step without penalty, or None), ``held_bytes`` (of the factors), and
        ``resident_bytes`` (None where there is no /proc).
    """
    artifacts = {
        recipe: kfac.load_artifact(seed.compressed(recipe, TRAINER), verify=False)
        for recipe in recipes
    }
    penalties = {recipe: kfac.KfacPenalty(a) for recipe, a in artifacts.items()}
    seconds = _penalty_seconds(penalties, artifacts[DENSE].parameters)
    steps = _step_seconds(seed, [NONE, *steps_of])
    return {
        recipe: {
            "penalty": seconds[recipe] / seconds[DENSE],
            "step": steps[recipe] / steps[NONE] if recipe in steps else None,
            "held_bytes": sum(f.nbytes for f in penalty.factors.values()),
            "resident_bytes": _resident(seed.compressed(recipe, TRAINER)),
        }
        for recipe, penalty in penalties.items()
    }


def _penalty_seconds(
    penalties: Mapping[str, kfac.KfacPenalty], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    found: dict[str, list[float]] = {recipe: [] for recipe in penalties}
    tau = _change(shapes)
    for turn in range(PENALTY_ROUNDS + 1):
        for recipe, penalty in penalties.items():
            started = time.process_time()
            penalty.backward(tau, float(cli_session.LAMBDA))
            if turn > 0:  # the first one warms up
                found[recipe].append(time.process_time() - started)
    return {recipe: median(times) for recipe, times in found.items()}


def _change(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Any change of the parameters, with gradients as a loss leaves them."""
    found = {name: torch.randn(shape) for name, shape in shapes.items()}
    for change in found.values():
        change.requires_grad_().grad = torch.randn_like(change)
    return found


def _step_seconds(seed: Seed, recipes: Sequence[str]) -> dict[str, float]:
    found: dict[str, list[float]] = {recipe: [] for recipe in recipes}
    for _ in range(STEP_ROUNDS):
        for recipe in found:
            found[recipe] += _steps(seed, recipe)
    return {recipe: median(times) for recipe, times in found.items()}


def _steps(seed: Seed, recipe: str) -> list[float]:
    """Train a few steps, with the penalty in every one, and time them."""
    path = seed.compressed(recipe, TRAINER)
    settings = kfac.TrainSettings(
        steps=STEPS + WARM_UP,
        batch_size=cli_session.BATCH,
        learning_rate=cli_session.RATE,
        penalty=kfac.PenaltySettings(
            0.0 if recipe == NONE else float(cli_session.LAMBDA)
        ),
        seed=seed.number,
    )
    ends: list[float] = []
    kfac.train(
        models.network(),
        models.task_of(TRAINER),
        settings,
        curvature=kfac.load_artifact(
            seed.others(TRAINER) if recipe == NONE else path, verify=False
        ),
        report=lambda _: ends.append(time.process_time()),
    )
    differences = [after - before for before, after in pairwise(ends)]
    return differences[WARM_UP - 1 :]


def _resident(path: Path) -> int | None:
    if not Path("/proc/self/statm").exists():
        return None
    script = Path(__file__).with_name("resident.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
