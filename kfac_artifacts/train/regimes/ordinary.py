"""Ordinary fine-tuning, of everything or of attention alone."""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.train.regimes.base import Regime
from kfac_artifacts.train.regimes.matrices import matrices_of

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


class Ordinary(Regime):
    """``f(x, θ0 + τ)``, with dropout off; the optimiser has τ itself.

    Weight decay therefore pulls towards the pretrained network, and not to zero.
    """

    mode = "plain"

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        super().__init__(network, names)
        self.changes = nn.ParameterList(zeros(network, self.names))

    @override
    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        return self.network.moved(self.tau(), batch)

    @override
    def tau(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.changes, strict=True))

    @override
    def describe(self) -> dict[str, Json]:
        return {"regime": {"name": "ordinary"}}

    @override
    def state(self) -> dict[str, Tensor]:
        return self.tau()


class Attention(Ordinary):
    """Ordinary fine-tuning of the projections of attention (Jin et al. 2025).

    Those are the matrices, without biases, of modules whose path names attention.

    Raises:
        CoverageError: If none of the parameters is one.
    """

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        found = [n for n in matrices_of(network, names) if is_attention(n)]
        if not found:
            raise CoverageError(
                "no parameter that may move is a matrix of a module called attention "
                f"or attn; there are, for example, {', '.join(names[:3])}. Choose "
                "parameters by name (--modules) with the regime ordinary"
            )
        super().__init__(network, found)

    @override
    def describe(self) -> dict[str, Json]:
        return {"regime": {"name": "attention"}}


def is_attention(name: str) -> bool:
    """Whether the path of a parameter's module names attention."""
    return any(ATTENTION.search(part) for part in name.split(".")[:-1])


def zeros(network: Network, names: Sequence[str]) -> list[Tensor]:
    """Changes of nothing, in float32 or better: small steps must not be lost."""
    parameters = network.parameters()
    return [
        torch.zeros(
            parameters[name].shape,
            dtype=torch.promote_types(parameters[name].dtype, torch.float32),
            device=parameters[name].device,
        )
        for name in names
    ]
