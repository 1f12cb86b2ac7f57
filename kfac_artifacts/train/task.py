"""What is to be learned, how that is recorded, and how well it was learned."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from kfac_artifacts.artifact import Artifact, Json
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.task_vector import ClassifierHead
from kfac_artifacts.train.settings import TrainSettings

FINGERPRINTED = 256
MEASURED_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """What is to be learned.

    Attributes:
        examples: Labelled examples.
        head: The frozen classifier on top of the output map.
        held_out: Labelled examples to measure the result on, if any.
    """

    examples: LabelledExamples
    head: ClassifierHead
    held_out: LabelledExamples | None = None

    def measure(self, network: Network, tau: Mapping[str, Tensor]) -> dict[str, Json]:
        """Measure the pretrained and the linearised model on the held-out examples."""
        if self.held_out is None:
            return {}
        targets, count = self.head.targets(self.held_out), len(self.held_out)
        before, after = 0, 0
        for start in range(0, count, MEASURED_AT_ONCE):
            chosen = range(start, min(start + MEASURED_AT_ONCE, count))
            expected = targets[list(chosen)].to(network.device)
            output, change = jvp(network, tau, self.held_out.batch(chosen))
            for_pretrained = self.head.logits(output).argmax(-1)
            for_linear = self.head.logits(output + change).argmax(-1)
            before += int((for_pretrained == expected).sum())
            after += int((for_linear == expected).sum())
        return {
            "examples": count,
            "pretrained": before / count,
            "linear": after / count,
        }


def describe(
    task: TrainingTask,
    settings: TrainSettings,
    indices: tuple[int, ...],
    curvature: Artifact | None,
) -> dict[str, Json]:
    """Write down everything that decides on the result.

    Args:
        task: What is to be learned.
        settings: How.
        indices: Numbers of the examples that are used; the first 256 of them are
            fingerprinted.
        curvature: Curvature of the other tasks.

    Returns:
        A JSON object.
    """
    info = task.examples.info(indices[:FINGERPRINTED])
    labels = repr([task.examples.labels[i] for i in indices])
    rows = task.head.embeddings.detach().float().cpu().contiguous().numpy().tobytes()
    sources = () if curvature is None else curvature.provenance.sources
    return {
        **asdict(settings),
        "modules": [*settings.modules],
        "module_weights": dict(settings.module_weights),
        "data": asdict(info),
        "examples": len(indices),
        "labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
        "head_sha256": hashlib.sha256(rows).hexdigest(),
        "logit_scale": task.head.logit_scale,
        "curvature": [
            {
                "data": source.data.id,
                "fingerprint": source.data.fingerprint,
                "size": source.data.size,
                "digest": source.digest,
            }
            for source in sources
        ],
    }
