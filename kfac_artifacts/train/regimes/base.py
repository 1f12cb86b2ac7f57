"""What every regime has: a network that moves, and the change that it has made."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from kfac_artifacts.artifact import Json
from kfac_artifacts.network import Batch, Network


class Regime(nn.Module, ABC):
    """A network that moves; its parameters as a module are those of the optimiser.

    They need not be those of the network: τ may be a function of them.

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

    def state(self) -> dict[str, Tensor]:
        """The live parameters of the optimiser, by their names in checkpoints."""
        return dict(self.named_parameters())

    def outputs(self, batch: Batch) -> tuple[Float[Tensor, "n c"], ...]:
        """Evaluate the pretrained network, and the network as it is now."""
        return self.network(batch), self(batch)
