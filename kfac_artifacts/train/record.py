"""How a training is recorded, and how well it learned."""

import hashlib
from dataclasses import asdict

import torch

from kfac_artifacts.artifact import Json
from kfac_artifacts.train.penalties import Penalty
from kfac_artifacts.train.regimes import Regime
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.train.task import TrainingTask

FINGERPRINTED = 256
MEASURED_AT_ONCE = 64


def measure(task: TrainingTask, regime: Regime) -> dict[str, Json]:
    """Measure the pretrained and the trained model on the held-out examples.

    Args:
        task: What was to be learned; without held-out examples nothing is measured.
        regime: The network as it is now.

    Returns:
        How many examples there are, and the share of right answers of both.
    """
    if task.held_out is None:
        return {}
    targets, count = task.head.targets(task.held_out), len(task.held_out)
    right = torch.zeros(2, dtype=torch.long)
    for start in range(0, count, MEASURED_AT_ONCE):
        chosen = range(start, min(start + MEASURED_AT_ONCE, count))
        expected = targets[list(chosen)]
        with torch.no_grad():
            outputs = regime.outputs(task.held_out.batch(chosen))
        answers = [task.head.logits(f).argmax(-1).cpu() for f in outputs]
        right += (torch.stack(answers) == expected).sum(1)
    before, after = (n / count for n in right.tolist())
    return {"examples": count, "pretrained": before, regime.mode: after}


def describe(
    task: TrainingTask,
    settings: TrainSettings,
    indices: tuple[int, ...],
    penalty: Penalty | None,
    regime: Regime,
) -> dict[str, Json]:
    """Write down everything that decides on the result.

    Args:
        task: What is to be learned.
        settings: How.
        indices: Numbers of the examples that are used; the first 256 of them are
            fingerprinted.
        penalty: What holds it back.
        regime: How the network moves.

    Returns:
        A JSON object.
    """
    info = task.examples.info(indices[:FINGERPRINTED])
    labels = repr([task.examples.labels[i] for i in indices])
    rows = task.head.embeddings.detach().float().cpu().contiguous().numpy().tobytes()
    return {
        **settings.to_json(),
        "data": asdict(info),
        "examples": len(indices),
        "labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
        "head_sha256": hashlib.sha256(rows).hexdigest(),
        "logit_scale": task.head.logit_scale,
        "curvature": [],
        **({} if penalty is None else penalty.describe()),
        **regime.describe(),
    }
