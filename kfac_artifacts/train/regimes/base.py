"""What every regime has: a network that moves, and the change that it has made."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from kfac_artifacts.artifact import Json
from kfac_artifacts.choices import REGIMES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.train.task import Learning

TaskLoss: TypeAlias = Callable[[Float[Tensor, "n c"]], Float[Tensor, ""]]
"""The loss of a batch's outputs under its labels, summed over the examples."""


class Regime(nn.Module, ABC):
    """A network that moves; its parameters as a module are those of the optimiser.

    They need not be those of the network: τ may be a function of them. What may be
    chosen about a regime are its keyword arguments.

    Attributes:
        mode: How τ acts on the network, as evaluation calls it: ``linear`` or
            ``plain``.

    Args:
        network: The pretrained network; it is left as it is.
        names: Names of the parameters of the network that may move.
    """

    mode: ClassVar[str]

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        """Evaluate the network as it is now, with gradients."""

    @abstractmethod
    def tau(self) -> dict[str, Tensor]:
        """The task vector by name of the network's parameter, with gradients."""

    @abstractmethod
    def describe(self) -> dict[str, Json]:
        """What the settings of its task vector say of it."""

    def prepare(self, learning: Learning) -> None:
        """Get ready for the first step.

        Args:
            learning: What will be learned, and how.
        """

    def begin(self, step: int) -> None:
        """Get ready for a step, by its number and nothing else."""

    def loss_beside(
        self, batch: Batch, output: Float[Tensor, "n c"], task_loss: TaskLoss
    ) -> Float[Tensor, ""] | None:
        """What is lowered beside the task loss of the output of ``forward``.

        Args:
            batch: The examples.
            output: What ``forward`` gave for them in this step.
            task_loss: The loss of any outputs for them.

        Returns:
            A sum over the examples; None for nothing.
        """
        return None

    def change(self) -> Mapping[str, Tensor]:
        """The task vector for the penalty, which need not be formed for it."""
        return self.tau()

    def held_back(self) -> tuple[Mapping[str, Tensor], ...]:
        """The task vectors that the penalty is for."""
        return (self.change(),)

    def state(self) -> dict[str, Tensor]:
        """The live parameters of the optimiser, by their names in checkpoints."""
        return dict(self.named_parameters())


RegimeMaker: TypeAlias = Callable[[Network, Sequence[str]], Regime]
"""A class of ``Regime``, or what ``choose_regime`` gives."""


def choose_regime(name: str, **settings: Any) -> RegimeMaker:
    """Choose a regime by its name, with what may be chosen about it.

    Args:
        name: One of ``choices.REGIMES``.
        settings: Keyword arguments of that regime; those not given are as usual.

    Returns:
        What makes it of a network and the names of parameters.

    Raises:
        SettingsError: If there is none of that name, it has no such setting, or a
            setting is impossible.
    """
    kind = REGIMES[name]
    for setting in sorted(settings.keys() - _settings_of(kind)):
        having = [n for n in REGIMES if setting in _settings_of(REGIMES[n])]
        raise SettingsError(
            f"{setting} does not go with the regime {name}, but with "
            f"{', '.join(having) or 'none'}"
        )
    return functools.partial(kind, **settings)


def _settings_of(kind: type[Regime]) -> set[str]:
    parameters = inspect.signature(kind).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
