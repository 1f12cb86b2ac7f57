"""The data of a task with their head, and by what name they are kept."""

import functools
import hashlib
from dataclasses import asdict, dataclass

from kfac_artifacts.artifact import Json
from kfac_artifacts.canonical import digest_of
from kfac_artifacts.network import Examples, LabelledExamples
from kfac_artifacts.task_vector import Head


@dataclass(frozen=True, eq=False)
class Loaded:
    """The data of a task, encoded for the network, and its head."""

    train: LabelledExamples
    validation: LabelledExamples
    test: LabelledExamples
    head: Head

    @functools.cached_property
    def head_sha256(self) -> str:
        """A hash of the head."""
        return sha256_of_head(self.head)

    @functools.cached_property
    def fingerprints(self) -> dict[str, Json]:
        """A hash of each of the three."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: fingerprint(examples) for name, examples in parts.items()}


def sha256_of_head(head: Head) -> str:
    """Name a head by its classes, its kind and its numbers."""
    rows = [t.detach().float().cpu().numpy() for t in head.tensors().values()]
    shapes = [list(r.shape) for r in rows]
    named = f"{head.classes} {head.describe()} {shapes}"
    numbers = b"".join(r.tobytes() for r in rows)
    return hashlib.sha256(named.encode() + numbers).hexdigest()


def fingerprint(examples: Examples) -> str:
    """Name data by all that a network is given of them, and their classes if any.

    Args:
        examples: Any data.

    Returns:
        A digest; how texts are cut off and what labels say counts, paths do not.
    """
    info = examples.info(range(len(examples)))
    about: dict[str, Json] = {
        "examples": info.fingerprint,
        "preprocessing": asdict(info.preprocessing),
    }
    if isinstance(examples, LabelledExamples):
        about |= {"labels": [*examples.labels], "classes": [*examples.classes]}
    return digest_of(about)
