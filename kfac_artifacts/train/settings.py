"""How to train: every number that changes the result, and the order of examples."""

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from kfac_artifacts.errors import SettingsError

WARMUP_SHARE = 0.1
LONGEST_WARMUP = 500


@dataclass(frozen=True)
class TrainSettings:
    """AdamW with a cosine, after a linear warm-up; no clipping (TAK, App. E).

    Attributes:
        steps: Number of optimiser steps.
        batch_size: Examples per step, over all processes.
        learning_rate: The highest, reached after the warm-up.
        weight_decay: Pulls τ to zero; TAK takes 0.1 for vision and 0.01 for text.
        warmup: Steps of the warm-up; None for a tenth of all, but at most 500.
        lam: Factor λ of the penalty; 0 trains without one.
        every: The penalty is evaluated in every so-manieth step.
        unscaled: Whether to leave out the factor ``every`` that makes up for the steps
            without penalty, as TAK does.
        modules: Patterns of parameter names to train; none for all that can be.
        module_weights: Factor of the penalty by pattern of block names; the first
            pattern that fits counts.
        allow_indefinite: Whether curvature that clearly rewards some drift may be used.
        limit: Train on so many examples, chosen by the seed; None for all.
        seed: Seed of the order of the examples.
    """

    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup: int | None = None
    lam: float = 100.0
    every: int = 1
    unscaled: bool = False
    modules: tuple[str, ...] = ()
    module_weights: Mapping[str, float] = field(default_factory=dict)
    allow_indefinite: bool = False
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise SettingsError(f"{name} must be at least {least}, found {value}")
        if not 0 < self.learning_rate < math.inf:
            raise SettingsError(f"learning_rate {self.learning_rate} is not positive")
        if any(not 0 <= x < math.inf for x in self.module_weights.values()):
            raise SettingsError("module_weights must be finite and not negative")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        usual = min(round(WARMUP_SHARE * self.steps), LONGEST_WARMUP)
        warmup = min(usual if self.warmup is None else self.warmup, self.steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / (self.steps - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def penalty_factor(self, step: int) -> float:
        """What the penalty is multiplied by in a step, 0 where it is left out."""
        if step % self.every:
            return 0.0
        return self.lam if self.unscaled else self.lam * self.every

    def choose(self, count: int) -> list[int]:
        """Numbers of the examples to train on, out of ``count``."""
        if self.limit is None or self.limit >= count:
            return list(range(count))
        return sorted(_permutation(count, f"limit {self.seed}")[: self.limit])

    def batch(self, step: int, indices: tuple[int, ...]) -> list[int]:
        """Choose the examples of a step, by the seed and the step and nothing else.

        An epoch is a permutation cut into whole batches; what is left over waits for
        the next one.

        Args:
            step: The step, counted from 0.
            indices: Numbers of all examples to train on.

        Returns:
            Numbers of the examples of this step.
        """
        size = min(self.batch_size, len(indices))
        epoch, place = divmod(step, len(indices) // size)
        order = _permutation(len(indices), f"epoch {self.seed} {epoch}")
        return [indices[i] for i in order[place * size : (place + 1) * size]]


_LEAST: dict[str, float] = {
    "steps": 1,
    "batch_size": 1,
    "weight_decay": 0,
    "warmup": 0,
    "lam": 0,
    "every": 1,
    "limit": 2,
    "seed": 0,
}


def steps_of(epochs: float, examples: int, batch_size: int) -> int:
    """How many steps go through the examples ``epochs`` times, at least one."""
    per_epoch = max(1, examples // batch_size)
    return max(1, round(epochs * per_epoch))


@functools.lru_cache(maxsize=2)
def _permutation(count: int, name: str) -> list[int]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.randperm(count, generator=generator).tolist()
