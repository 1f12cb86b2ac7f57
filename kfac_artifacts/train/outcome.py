"""What came of a training, and what a person should change about it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from kfac_artifacts.artifact import Json
from kfac_artifacts.network import Network
from kfac_artifacts.train.record import Measured, measure, spread
from kfac_artifacts.train.run import Run

OWN = 128
"""How many of its own training examples a training is measured on."""
LEAST_LEARNT = 0.1
LEAST_HELD = 0.01
MOST_LOST = 0.05


def outcome(network: Network, run: Run) -> dict[str, Json]:
    """Measure what a run has learnt, and what that does to others.

    Args:
        network: The pretrained network, at the precision to measure at.
        run: The run, after its last step.

    Returns:
        The metrics of its task vector: ``loss`` and ``accuracy`` of the last steps; the
        predicted ``penalty``; ``own_loss`` and ``own_accuracy`` on some examples that
        were trained on; ``held_out`` accuracy, if there are such examples.
    """
    progress, task = run.progress, run.task
    metrics: dict[str, Json] = {
        "steps": progress.step,
        "loss": progress.loss,
        "accuracy": progress.accuracy,
    }
    if run.penalty is not None:
        with torch.no_grad():
            metrics["penalty"] = float(run.penalty(run.regime.change()))
    rows = spread(run.indices, OWN)
    own = measure(network, task.head, task.examples, rows, run.regime)
    count: dict[str, Json] = {"examples": len(rows)}
    metrics["own_loss"] = count | {n: m.loss for n, m in own.items()}
    metrics["own_accuracy"] = count | _accuracies(own)
    if task.held_out is not None:
        everything = range(len(task.held_out))
        held_out = measure(
            network, task.head, task.held_out, everything, run.regime, own
        )
        count = {"examples": len(everything)}
        metrics["held_out"] = count | _accuracies(held_out)
    return metrics


def _accuracies(measured: Mapping[str, Measured]) -> dict[str, Json]:
    return {name: each.accuracy for name, each in measured.items()}


def doubts_about(run: Run, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Say what is odd about a training, and what to do.

    Args:
        run: The run, after its last step.
        metrics: Those of ``outcome``.

    Yields:
        Sentences: that λ is so large that nothing was learnt, or so small that it does
        nothing; that the ordinary model is far below the linearised one.
    """
    losses, weight = metrics["own_loss"], run.settings.penalty.weight
    fallen = losses["pretrained"] - losses[run.regime.mode]
    if run.penalty is not None and isinstance(weight, int | float) and weight:
        pull = weight * metrics["penalty"]
        if fallen < LEAST_LEARNT * losses["pretrained"]:
            yield (
                f"hardly anything was learnt: the own loss went from "
                f"{losses['pretrained']:.3g} to {losses[run.regime.mode]:.3g}; take a "
                f"smaller --lambda than {weight:.3g}, or more steps"
            )
        elif 0 <= pull < LEAST_HELD * fallen:
            yield (
                f"the penalty does next to nothing: {weight:.3g} times the drift of "
                f"{metrics['penalty']:.3g} is {pull / fallen:.1%} of what the own loss "
                f"fell by; take a larger --lambda, or leave it at auto"
            )
    found = metrics.get("held_out", metrics["own_accuracy"])
    lost = found.get("linear", 0.0) - found["plain"]
    if lost > MOST_LOST and run.regime.mode == "linear":
        yield (
            f"the ordinary model, which `kfac apply` writes, has {found['plain']:.1%} "
            f"right, and the linearised one that was trained {found['linear']:.1%}: "
            "they are alike for small changes only; take a lower learning rate (--lr "
            f"{run.settings.learning_rate / 3:.0e}), fewer layers (--modules) or a "
            "larger --lambda"
        )
