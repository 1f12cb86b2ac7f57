"""How a training is recorded, and how well it learned."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Batch, LabelledExamples, Network
from kfac_artifacts.task_vector import Head
from kfac_artifacts.train.penalties import Penalty
from kfac_artifacts.train.regimes import Regime
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.train.task import TrainingTask

logger = logging.getLogger(__name__)

FINGERPRINTED = 256
MEASURED_AT_ONCE = 64
STATES = ("pretrained", "linear", "plain")


@dataclass(frozen=True)
class Measured:
    """How a model does on some examples.

    Attributes:
        accuracy: The share of right answers.
        loss: Mean cross entropy.
    """

    accuracy: float
    loss: float


def measure(
    network: Network,
    head: Head,
    examples: LabelledExamples,
    rows: Sequence[int],
    regime: Regime,
    modes: Iterable[str] = STATES,
) -> dict[str, Measured]:
    """Measure the pretrained and the trained model on some examples.

    Whatever the regime, τ is measured in both modes of ``choices.MODES``: as the
    linearised network, and as the ordinary one that ``apply`` writes.

    Args:
        network: The pretrained network, at the precision to measure at.
        head: The classifier.
        examples: Labelled examples.
        rows: Numbers of those to measure on.
        regime: The network as it is now.
        modes: What to measure.

    Returns:
        What there is of ``pretrained``, ``linear`` and ``plain``. A network that cannot
        be linearised has no ``linear``, and a warning says so.

    Raises:
        CoverageError: If such a network was trained linearised.
    """
    tau = {n: t.detach() for n, t in regime.tau().items()}
    targets = head.targets(examples)
    found: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    for start in range(0, len(rows), MEASURED_AT_ONCE):
        chosen = rows[start : start + MEASURED_AT_ONCE]
        expected, batch = targets[list(chosen)], examples.batch(chosen)
        with torch.no_grad():
            outputs = {"plain": network.moved(tau, batch)}
            if "linear" in found:
                outputs |= _linear(network, tau, batch, needed=regime.mode == "linear")
            else:
                outputs["pretrained"] = network(batch)
        found = {n: each for n, each in found.items() if n in outputs}
        for name, each in found.items():
            each.append(_scores(head, outputs[name], expected))
    return {
        name: Measured(*torch.cat(each, dim=1).double().mean(1).tolist())
        for name, each in found.items()
    }


def _scores(head: Head, features: Tensor, expected: Tensor) -> Tensor:
    """Whether each answer is right, and its loss: ``[2, n]``."""
    logits = head.logits(features).cpu()
    right = (head.answers(logits) == expected).to(torch.float64)
    return torch.stack([right, cross_entropy(logits, expected, reduction="none")])


def spread(rows: Sequence[int], most: int) -> list[int]:
    """Choose at most so many of some rows, evenly: files may be sorted by class."""
    return [*rows[:: max(1, -(-len(rows) // most))]]


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
