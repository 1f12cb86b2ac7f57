"""How to train: every number that changes the result, and the order of examples."""

import dataclasses
import functools
import hashlib
import math
from dataclasses import dataclass, field

import torch

from kfac_artifacts.artifact import Json
from kfac_artifacts.choices import PRECISIONS
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import Examples
from kfac_artifacts.seeding import seeded
from kfac_artifacts.train.penalties.base import PenaltySettings, Weight

USUAL_STEPS = 300
USUAL_DECAY = 0.01
USUAL_DECAY_OF_IMAGES = 0.1  # as in TAK, App. E
USUAL_OPTIMIZER = "adamw"
USUAL_PRECISION = "float32"
WARMUP_SHARE = 0.1
LONGEST_WARMUP = 500


@dataclass(frozen=True)
class TrainSettings:
    """AdamW with a cosine, after a linear warm-up; no clipping (TAK, App. E).

    Attributes:
        steps: Number of optimiser steps.
        batch_size: Examples per step, over all processes.
        learning_rate: The highest, reached after the warm-up.
        weight_decay: Pulls τ to zero.
        warmup: Steps of the warm-up; None for a tenth of all, but at most 500.
        penalty: How much the penalty counts, and when.
        modules: Patterns of parameter names to train; none for all that can be.
        limit: Train on so many examples, chosen by the seed; None for all.
        seed: Seed of the order of the examples.
        accumulate: A step goes through its batch in so many parts, one after the
            other; it changes nothing but memory, speed and rounding.
        precision: One of ``choices.PRECISIONS``: of matrix products in passes through
            the network. Whatever it is, τ, its moments, losses and penalties are in
            float32 or better.
        optimizer: ``adamw``, or ``adamw8bit`` with a quarter of its memory.
    """

    steps: int = USUAL_STEPS
    batch_size: int = 32
    learning_rate: float = 3e-4
    weight_decay: float = USUAL_DECAY
    warmup: int | None = None
    penalty: PenaltySettings = field(default_factory=PenaltySettings)
    modules: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    optimizer: str = USUAL_OPTIMIZER
    accumulate: int = 1
    precision: str = USUAL_PRECISION

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise SettingsError(f"{name} must be at least {least}, found {value}")
        if self.precision not in PRECISIONS:
            raise SettingsError(
                f"precision {self.precision!r} is unknown; choose from "
                f"{', '.join(PRECISIONS)}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise SettingsError(f"learning_rate {self.learning_rate} is not positive")

    @classmethod
    def usual(
        cls,
        examples: Examples,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        batch_size: int = 32,
        limit: int | None = None,
        weight_decay: float | None = None,
    ) -> "TrainSettings":
        """Give the settings that are usual for some examples.

        Args:
            examples: The examples to train on.
            steps: Number of optimiser steps; None for 300.
            epochs: How often to go through the examples instead.
            batch_size: Examples per step, over all processes.
            limit: Train on so many examples, chosen by the seed; None for all.
            weight_decay: Pulls τ to zero; None for 0.1 for images, else 0.01.

        Returns:
            The settings; ``dataclasses.replace`` changes the others.

        Raises:
            SettingsError: If both steps and epochs are given, or a number is out of
                range.
        """
        if steps is not None and epochs is not None:
            raise SettingsError("give steps or epochs, not both")
        if epochs is not None:
            count = min(len(examples), limit or len(examples))
            steps = steps_of(epochs, count, batch_size)
        if weight_decay is None:
            images = examples.info([0]).preprocessing.name == "image"
            weight_decay = USUAL_DECAY_OF_IMAGES if images else USUAL_DECAY
        return cls(
            steps=USUAL_STEPS if steps is None else steps,
            batch_size=batch_size,
            limit=limit,
            weight_decay=weight_decay,
        )

    def to_json(self) -> dict[str, Json]:
        """Write the settings as task vectors and checkpoints hold them."""
        penalty = self.penalty
        found: dict[str, Json] = {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "warmup": self.warmup,
            "lam": penalty.weight,
            "every": penalty.every,
            "unscaled": penalty.unscaled,
            "modules": [*self.modules],
            "module_weights": dict(penalty.module_weights),
            "allow_indefinite": penalty.allow_indefinite,
            "limit": self.limit,
            "seed": self.seed,
        }
        if self.optimizer != USUAL_OPTIMIZER:
            found["optimizer"] = self.optimizer
        if self.accumulate > 1:
            found["accumulate"] = self.accumulate
        if self.precision != USUAL_PRECISION:
            found["precision"] = self.precision
        return found

    def weighed(self, weight: Weight) -> "TrainSettings":
        """The same settings with a factor λ of the penalty."""
        penalty = dataclasses.replace(self.penalty, weight=weight)
        return dataclasses.replace(self, penalty=penalty)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        usual = min(round(WARMUP_SHARE * self.steps), LONGEST_WARMUP)
        warmup = min(usual if self.warmup is None else self.warmup, self.steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / (self.steps - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

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
    "accumulate": 1,
    "weight_decay": 0,
    "warmup": 0,
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
    return torch.randperm(count, generator=seeded(seed % 2**63)).tolist()
