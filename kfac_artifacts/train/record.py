"""How a training is recorded, and how well it learned."""

import hashlib
import logging
from dataclasses import asdict

import torch
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.train.penalties import Penalty
from kfac_artifacts.train.regimes import Regime
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.train.task import TrainingTask

logger = logging.getLogger(__name__)

FINGERPRINTED = 256
MEASURED_AT_ONCE = 64


def measure(network: Network, task: TrainingTask, regime: Regime) -> dict[str, Json]:
    """Measure the pretrained and the trained model on the held-out examples.

    Whatever the regime, τ is measured in both modes of ``choices.MODES``: as the
    linearised network, and as the ordinary one that ``apply`` writes.

    Args:
        network: The pretrained network, at the precision to measure at.
        task: What was to be learned; without held-out examples nothing is measured.
        regime: The network as it is now.

    Returns:
        How many examples there are, and the share of right answers: ``pretrained``,
        ``linear`` and ``plain``. A network that cannot be linearised has no ``linear``,
        and a warning says so.

    Raises:
        CoverageError: If such a network was trained linearised.
    """
    if task.held_out is None:
        return {}
    tau = {n: t.detach() for n, t in regime.tau().items()}
    names = ["pretrained", "linear", "plain"]
    targets, count = task.head.targets(task.held_out), len(task.held_out)
    right = dict.fromkeys(names, 0)
    for start in range(0, count, MEASURED_AT_ONCE):
        chosen = range(start, min(start + MEASURED_AT_ONCE, count))
        expected, batch = targets[list(chosen)], task.held_out.batch(chosen)
        with torch.no_grad():
            outputs = {"plain": network.moved(tau, batch)}
            if "linear" in right:
                outputs |= _linear(network, tau, batch, needed=regime.mode == "linear")
            else:
                outputs["pretrained"] = network(batch)
        right = {n: right[n] for n in names if n in outputs}
        for name in right:
            answers = task.head.logits(outputs[name]).argmax(-1).cpu()
            right[name] += int((answers == expected).sum())
    return {"examples": count} | {name: n / count for name, n in right.items()}


def _linear(
    network: Network, tau: dict[str, Tensor], batch: Batch, *, needed: bool
) -> dict[str, Tensor]:
    """Outputs at θ0 and linearised; only the first, if that is impossible."""
    try:
        output, change = jvp(network, tau, batch)  # both in one pass
    except CoverageError as error:
        if needed:
            raise
        logger.warning("the linearised model is not measured: %s", error)
        return {"pretrained": network(batch)}
    return {"pretrained": output, "linear": output + change}


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
    rows = [t.detach().float().cpu().numpy() for t in task.head.tensors().values()]
    return {
        **settings.to_json(),
        "data": asdict(info),
        "examples": len(indices),
        "labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
        "head_sha256": hashlib.sha256(b"".join(r.tobytes() for r in rows)).hexdigest(),
        **task.head.describe(),
        "mode": regime.mode,
        "curvature": [],
        **({} if penalty is None else penalty.describe()),
        **regime.describe(),
    }
