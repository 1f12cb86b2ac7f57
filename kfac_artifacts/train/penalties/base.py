"""What every penalty has, and how one is weighed."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Artifact, Json
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.network import Examples, Network

Weight: TypeAlias = float | Literal["auto"]
AUTO: Literal["auto"] = "auto"
USUAL_WEIGHT = 100.0
_CALLED = {"curvatures": "curvature", "examples": "data"}


@dataclass(frozen=True)
class PenaltySettings:
    """How much a penalty counts, and when.

    Attributes:
        weight: Factor λ of the penalty; 0 trains without one, and only measures it;
            ``auto`` chooses it by a few steps without penalty (``train.probe``); None
            is what is usual for the penalty.
        every: The penalty is evaluated in every Nth step.
        unscaled: Whether to leave out the factor ``every`` that makes up for the steps
            without penalty, as TAK does.
        module_weights: Factor of the penalty by pattern of block names; the first
            pattern that fits counts.
        allow_indefinite: Whether curvature that clearly rewards some drift may be used.
        factors: Where factors are held, as ``place`` of ``KfacPenalty``; it changes
            nothing but memory and speed.
    """

    weight: Weight | None = None
    every: int = 1
    unscaled: bool = False
    module_weights: Mapping[str, float] = field(default_factory=dict)
    allow_indefinite: bool = False
    factors: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.weight, int | float) and not 0 <= self.weight < math.inf:
            raise SettingsError(
                f"the weight of the penalty must be at least 0, found {self.weight}"
            )
        if not 1 <= self.every < math.inf:
            raise SettingsError(f"every must be at least 1, found {self.every}")
        if any(not 0 <= x < math.inf for x in self.module_weights.values()):
            raise SettingsError("module_weights must be finite and not negative")

    def factor(self, step: int) -> float:
        """What the penalty is multiplied by in a step, 0 where it is left out.

        Args:
            step: The step, counted from 0.

        Returns:
            λ, times ``every`` unless it is unscaled.

        Raises:
            SettingsError: If λ is no number yet.
        """
        if self.weight is None or isinstance(self.weight, str):
            raise SettingsError(
                f"the weight of the penalty is {self.weight!r}, and not chosen yet"
            )
        if step % self.every:
            return 0.0
        return self.weight if self.unscaled else self.weight * self.every


@dataclass(frozen=True, eq=False)
class Others:
    """What is known of the tasks of others.

    Attributes:
        curvatures: Their curvature, of one or more tasks each.
        examples: Their data, without labels.
    """

    curvatures: tuple[Artifact, ...] = ()
    examples: tuple[Examples, ...] = ()


class Penalty(ABC):
    """A number that training adds to the loss, as a function of the task vector.

    Attributes:
        usual_weight: The factor λ that is usual for it.
        needs: Which of ``Others`` it is made of.
    """

    usual_weight: ClassVar[Weight] = USUAL_WEIGHT
    needs: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check_others(cls, name: str, others: Others) -> None:
        """Refuse others of whom too little is known, or what it does not use.

        Args:
            name: What it is called.
            others: What is known of the tasks of others.

        Raises:
            MismatchError: If something is missing.
            SettingsError: If something is given that is not used.
        """
        for what, called in _CALLED.items():
            given = getattr(others, what)
            if what in cls.needs and not given:
                raise MismatchError(
                    f"the penalty {name} needs the {called} of other tasks"
                )
            if given and what not in cls.needs:
                raise SettingsError(
                    f"the penalty {name} does not use the {called} of other tasks; "
                    "leave it out, or choose another penalty"
                )

    @abstractmethod
    def __call__(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Evaluate the penalty, with its gradient.

        Args:
            tau: Task vector by parameter name.

        Returns:
            One number.

        Raises:
            FactorError: If it is not finite.
        """

    def backward(self, tau: Mapping[str, Tensor], weight: float) -> None:
        """Add the gradient of ``weight`` times the penalty to those behind τ.

        Args:
            tau: Task vector by parameter name.
            weight: Factor of the penalty in this step.

        Raises:
            FactorError: If the penalty is not finite.
        """
        (weight * self(tau)).backward()

    @abstractmethod
    def describe(self) -> dict[str, Json]:
        """What the settings of a task vector say of it."""

    def begin(self, step: int) -> None:  # noqa: B027, most are of no step
        """Get ready for a step, by its number and nothing else."""

    @property
    def covered(self) -> Collection[str] | None:
        """Names of the parameters that may move; None for all."""
        return None

    def check(self, network: Network) -> None:  # noqa: B027, most fit all
        """Refuse a network that the penalty is not for.

        Args:
            network: Network to be trained.

        Raises:
            MismatchError: If they do not belong together.
        """

    def doubts(self, examples: Examples) -> list[str]:
        """Say what is odd about it and the data to be trained on, and not refused."""
        return []

    def prepare(  # noqa: B027
        self, network: Network, names: Sequence[str]
    ) -> None:
        """Read and hold what is needed to evaluate it.

        Args:
            network: Network to be trained.
            names: The parameters that are trained; the others stand still.

        Raises:
            FactorError: If what it computes with is not sound.
        """
