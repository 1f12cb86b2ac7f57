"""The drift of other tasks under their curvature (TAK, Eq. 6 and 7)."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Json, require_curvature_of
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.train.doubts import doubts
from kfac_artifacts.train.penalties.base import Penalty, PenaltySettings


class KfacDrift(Penalty):
    """``KfacPenalty`` on the parameters that are trained; the others stand still.

    A parameter that the curvature does not cover is never trained: it would be free to
    disturb the other tasks.

    Args:
        curvature: Curvature of the other tasks; factors are read by ``prepare``.
        settings: How much it counts.

    Raises:
        MismatchError: If there is no curvature.
    """

    def __init__(self, curvature: Artifact | None, settings: PenaltySettings) -> None:
        if curvature is None:
            raise MismatchError("the penalty kfac needs the curvature of other tasks")
        self.curvature = curvature
        self.settings = settings

    @property
    @override
    def covered(self) -> Collection[str]:
        return self.curvature.parameters.keys()

    @override
    def check(self, network: Network) -> None:
        require_curvature_of(
            self.curvature.provenance, network.base, network.output_map.info
        )

    @override
    def doubts(self, examples: Examples) -> list[str]:
        return doubts(self.curvature, examples)

    @override
    def prepare(self, network: Network, names: Sequence[str]) -> None:
        blocks = {
            n: b
            for n, b in self.curvature.blocks.items()
            if not set(names).isdisjoint(b.parameters)
        }
        settings = self.settings
        # only their factors are read and held in memory
        self._penalty = KfacPenalty(
            dataclasses.replace(self.curvature, blocks=blocks),
            weights=settings.module_weights,
            device=network.device,
            allow_indefinite=settings.allow_indefinite or settings.weight == 0,
        )
        parameters = network.parameters()
        self._still = {
            name: torch.zeros_like(parameters[name], requires_grad=False)
            for name in self._penalty.parameters
            if name not in names
        }

    @override
    def __call__(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        return self._penalty({**self._still, **tau})

    @override
    def describe(self) -> dict[str, Json]:
        return {
            "curvature": [
                {
                    "data": source.data.id,
                    "fingerprint": source.data.fingerprint,
                    "size": source.data.size,
                    "digest": source.digest,
                }
                for source in self.curvature.provenance.sources
            ]
        }
