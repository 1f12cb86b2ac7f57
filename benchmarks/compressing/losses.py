"""What compressing loses: bytes, errors, and how well drift is predicted."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import kfac_artifacts as kfac
from cli_session import TASKS
from compressing import models
from compressing.conditions import Seed
from compressing.recipes import DENSE, NONE
from compressing.sizes import bytes_on_disk, tensor_bytes
from kfac_artifacts.compress import compression_report
from kfac_artifacts.fidelity import agreement
from kfac_artifacts.format import dense_bytes
from kfac_artifacts.linearize import jvp


@dataclass(frozen=True)
class Drift:
    """Drift along a task vector that nothing held back, on texts of the others."""

    predicted: float
    true: float


def sizes(seed: Seed, recipe: str) -> dict[str, float]:
    """Measure bytes; the mean over the trainers, as budgets may differ."""
    found = []
    for trainer in TASKS:
        path = seed.compressed(recipe, trainer)
        tensors = tensor_bytes(kfac.load_artifact(path, verify=False))
        dense = dense_bytes(kfac.load_artifact(seed.others(trainer), verify=False))
        found.append((tensors, bytes_on_disk(path), tensors / dense))
    means = map(fmean, zip(*found, strict=True))
    return dict(zip(("bytes", "bytes_on_disk", "bytes_share"), means, strict=True))


def losses(seed: Seed, recipe: str) -> dict[str, Any]:
    """Compare the artifacts and the penalties with the uncompressed ones.

    Args:
        seed: A seed whose arms have been trained: the task vectors without penalty are
            the directions.
        recipe: The recipe.

    Returns:
        Means over the trainers: the relative Frobenius error of all blocks together,
        the penalty after / before; predicted / true drift on held-out texts of the
        other tasks; and ``escape``, which is how large the uncompressed penalty is of
        task vectors that were trained with the recipe, over those trained without
        compression: whatever the recipe lets go free shows there.
    """
    file = Path(f"seed-{seed.number}", "compressed", recipe, "losses.json")
    if file.is_file():
        return json.loads(file.read_text())
    reports, drifts, escapes = [], [], []
    for trainer in TASKS:
        tau = kfac.TaskVector.load(seed.trained(NONE, trainer)).tensors
        before = kfac.load_artifact(seed.others(trainer), verify=False)
        after = kfac.load_artifact(seed.compressed(recipe, trainer), verify=False)
        reports.append(compression_report(before, after, [tau]))
        exact = kfac.KfacPenalty(before)
        own, dense = (
            float(exact(kfac.TaskVector.load(seed.trained(arm, trainer)).tensors))
            for arm in (recipe, DENSE)
        )
        escapes.append(own / dense)
        predicted = float(kfac.KfacPenalty(after)(tau))
        drifts.append(Drift(predicted, true_drift(seed, trainer)))
    found = {
        "error": fmean(report.error for report in reports),
        "penalty_ratio": fmean(report.directions[0] or 0.0 for report in reports),
        "predicted_over_true": agreement(drifts).ratio,
        "escape": fmean(escapes),
    }
    file.write_text(json.dumps(found) + "\n")
    return found


def true_drift(seed: Seed, trainer: str) -> float:
    """Measure ``Σ_t λ_t E‖J(x) τ‖²`` on held-out texts x of the other tasks t.

    τ is what the trainer's task vector is without penalty, and λ_t the weight that the
    merge gives to a task, so that the penalty predicts this very number.

    Args:
        seed: A seed whose arm without penalty has been trained.
        trainer: The trainer.

    Returns:
        The drift.
    """
    file = Path(f"seed-{seed.number}", "trained", NONE, f"drift-{trainer}.json")
    if file.is_file():
        return json.loads(file.read_text())
    tau = kfac.TaskVector.load(seed.trained(NONE, trainer)).tensors
    provenance = kfac.load_artifact(seed.others(trainer), verify=False).provenance
    drift = sum(
        source.data.size / provenance.size * _mean_square(tau, source.data.id)
        for source in provenance.sources
    )
    file.write_text(json.dumps(drift) + "\n")
    return drift


def _mean_square(tau: dict[str, torch.Tensor], task: str) -> float:
    examples, total = models.texts(task, "test"), 0.0
    for start in range(0, len(examples), models.AT_ONCE):
        chosen = range(start, min(start + models.AT_ONCE, len(examples)))
        _, change = jvp(models.network(), tau, examples.batch(chosen))
        total += float(change.double().square().sum())
    return total / len(examples)
