"""Training in the tangent space of the network (TAK, Eq. 1)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.linearize import linearize
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.train.regimes.base import Regime


class Linearised(Regime):
    """``f(x, θ0) + J(x) τ``; the optimiser has τ itself."""

    mode = "linear"

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        super().__init__(network, names)
        self.tangent = linearize(network, names)

    @override
    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        return self.tangent(batch)

    @override
    def tau(self) -> dict[str, Tensor]:
        return self.tangent.tau()

    @override
    def describe(self) -> dict[str, Json]:
        return {}  # what task vectors are unless they say something else

    @override
    def state(self) -> dict[str, Tensor]:
        return self.tau()
