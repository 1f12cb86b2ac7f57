"""Low-rank adaptation (Hu et al. 2022)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.seeding import seeded
from kfac_artifacts.train.products import Products
from kfac_artifacts.train.regimes.base import Regime
from kfac_artifacts.train.regimes.matrices import matrices_of
from kfac_artifacts.train.task import Learning
from kfac_artifacts.tuning import LowRankChange


class Lora(Regime):
    """``f(x, θ0 + (α/r) V U)`` of the weights of linear maps; nothing else moves.

    U ``[r, d_in]`` begins as the uniform numbers of ``nn.Linear``, by the seed of the
    settings, and V ``[d_out, r]`` as zeros. The task vector is the product.

    Args:
        network: The pretrained network; it is left as it is.
        names: Names of the parameters that may move.
        rank: r; matrices with a shorter side have that side's.
        alpha: α; None for r, so that V U is not scaled.

    Raises:
        SettingsError: If rank or alpha is not positive.
        CoverageError: If none of the parameters is the weight of a linear map.
    """

    mode = "plain"

    def __init__(
        self,
        network: Network,
        names: Sequence[str],
        *,
        rank: int = 16,
        alpha: float | None = None,
    ) -> None:
        if rank < 1 or not 0 < (rank if alpha is None else alpha) < math.inf:
            raise SettingsError(
                f"rank and alpha of LoRA must be positive, found {rank} and {alpha}"
            )
        found = matrices_of(network, names)
        if not found:
            raise CoverageError(
                "LoRA is for the weights of linear maps, and no parameter that may "
                f"move is one; there are, for example, {', '.join(names[:3])}"
            )
        super().__init__(network, found)
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.left, self.right = nn.ParameterList(), nn.ParameterList()
        parameters = network.parameters()
        for value in (parameters[name] for name in found):
            d_out, d_in = value.shape
            own = min(rank, d_out, d_in)
            dtype = torch.promote_types(value.dtype, torch.float32)
            self.left.append(value.new_zeros(d_out, own, dtype=dtype))
            self.right.append(value.new_zeros(own, d_in, dtype=dtype))
        self._draw(0)

    @override
    def prepare(self, learning: Learning) -> None:
        self._draw(learning.settings.seed)

    @override
    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        return self.network.moved(self.tau(), batch)

    @override
    def tau(self) -> dict[str, Tensor]:
        return dict(self.change())

    @override
    def change(self) -> Products:
        scale = self.alpha / self.rank
        pairs = zip(self.left, self.right, strict=True)
        changes = [LowRankChange(V, U, scale) for V, U in pairs]
        return Products(dict(zip(self.names, changes, strict=True)))

    @override
    def describe(self) -> dict[str, Json]:
        about: dict[str, Json] = {"name": "lora", "rank": self.rank}
        return {"regime": {**about, "alpha": self.alpha}}

    def _draw(self, seed: int) -> None:
        generator = seeded(seed)
        with torch.no_grad():
            for U in self.right:
                drawn = torch.rand(U.shape, generator=generator)
                U.copy_((2 * drawn - 1) / math.sqrt(U.shape[1]))
