"""Some examples of labelled data, as data of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kfac_artifacts.artifact import DataInfo
from kfac_artifacts.network import LabelledExamples
from kfac_artifacts.seeding import seeded

VALIDATION_SHARE, MOST_VALIDATION = 0.1, 1000


@dataclass(frozen=True, eq=False)
class Part:
    """Chosen examples of others, numbered anew.

    Attributes:
        whole: The others.
        indices: Their numbers there.
    """

    whole: LabelledExamples
    indices: tuple[int, ...]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.indices)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Encode some of them."""
        return self.whole.batch([self.indices[i] for i in indices])

    def info(self, indices: Sequence[int]) -> DataInfo:
        """Describe the others, of this size, and fingerprint those that were used."""
        info = self.whole.info([self.indices[i] for i in indices])
        return replace(info, size=len(self))

    @property
    def labels(self) -> Sequence[int]:
        """Class of every example."""
        return [self.whole.labels[i] for i in self.indices]

    @property
    def classes(self) -> Sequence[str]:
        """Name of every class."""
        return self.whole.classes


def divided(examples: LabelledExamples, seed: int) -> tuple[Part, Part]:
    """Divide examples into those to train on and those to choose by.

    Args:
        examples: Labelled examples.
        seed: Which ones are held out.

    Returns:
        The two; the second has a tenth of them, at least one, and at most 1 000.
    """
    count = min(MOST_VALIDATION, max(1, round(VALIDATION_SHARE * len(examples))))
    generator = seeded(f"validation {seed}")
    order = torch.randperm(len(examples), generator=generator).tolist()
    held_out = sorted(order[:count])
    kept = sorted(order[count:])
    return Part(examples, tuple(kept)), Part(examples, tuple(held_out))
