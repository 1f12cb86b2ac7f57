"""The drift of other tasks under their curvature (TAK, Eq. 6 and 7)."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Json, require_curvature_of
from kfac_artifacts.errors import MismatchError, listed
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.penalty import KfacPenalty, leaves
from kfac_artifacts.train.doubts import doubts
from kfac_artifacts.train.penalties.base import (
    AUTO,
    Others,
    Penalty,
    PenaltySettings,
    Weight,
)
from kfac_artifacts.train.products import Products
from kfac_artifacts.tuning import LowRankChange, LowRankPenalty, backward_through


class KfacDrift(Penalty):
    """``KfacPenalty`` on the parameters that are trained; the others stand still.

    Whatever the estimator, the curvature of all others is merged into one, and costs
    what one costs. A parameter that it does not cover is never trained: it would be
    free to disturb the other tasks.

    Args:
        others: Curvature of the other tasks; factors are read by ``prepare``.
        settings: How much it counts.

    Raises:
        MismatchError: If the curvatures do not belong together.
    """

    usual_weight: ClassVar[Weight] = AUTO
    needs = ("curvatures",)

    def __init__(self, others: Others, settings: PenaltySettings) -> None:
        one, *more = others.curvatures
        self.curvature = merge(others.curvatures) if more else one
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
        # only their factors are read and held in memory
        self._part = dataclasses.replace(self.curvature, blocks=blocks)
        self._device = network.device
        self._dense: KfacPenalty | None = None
        self._low: LowRankPenalty | None = None
        parameters = network.parameters()
        self._still = {
            name: torch.zeros_like(parameters[name], requires_grad=False)
            for name in self._formed().parameters
            if name not in names
        }

    @override
    def __call__(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        changes = self._products(tau)
        if changes is not None:
            return self._low_rank(changes)(changes)
        return self._formed()({**self._still, **tau})

    @override
    def backward(self, tau: Mapping[str, Tensor], weight: float) -> None:
        changes = self._products(tau)
        if changes is not None:
            backward_through(self._low_rank(changes), changes, weight)
        else:
            self._formed().backward({**self._still, **tau}, weight)

    def _products(self, tau: Mapping[str, Tensor]) -> dict[str, LowRankChange] | None:
        """The changes of all blocks, where none has to be formed."""
        if not isinstance(tau, Products) or self.settings.factors == "host":
            return None
        return tau.of_blocks(self._part.blocks)

    def _formed(self) -> KfacPenalty:
        """The penalty of formed changes, which holds every factor."""
        if self._dense is None:
            settings = self.settings
            self._dense = KfacPenalty(
                self._part,
                weights=settings.module_weights,
                device=self._device,
                place=settings.factors,
                allow_indefinite=settings.allow_indefinite or settings.weight == 0,
            )
        return self._dense

    def _low_rank(self, changes: Mapping[str, LowRankChange]) -> LowRankPenalty:
        """The penalty of products, which holds the factors in place of the other."""
        if self._low is None:
            dense, self._dense = self._formed(), None
            self._low = LowRankPenalty(dense, self._part.parameters, changes)
        return self._low

    @override
    def describe(self) -> dict[str, Json]:
        return {"curvature": described(self.curvature)}


class KfacPerTask(Penalty):
    """``Σ_t λ_t τᵀ G_t τ`` of every curvature by itself, λ_t by the sizes (TAK, Eq. 7).

    What ``KfacDrift`` approximates by one merged curvature: memory and time are those
    of as many as there are.

    Args:
        others: Curvature of the other tasks, unmerged.
        settings: How much it counts.

    Raises:
        MismatchError: If they do not cover the same parameters.
    """

    usual_weight: ClassVar[Weight] = AUTO
    needs = ("curvatures",)

    def __init__(self, others: Others, settings: PenaltySettings) -> None:
        self.parts = [
            KfacDrift(Others((curvature,)), settings) for curvature in others.curvatures
        ]
        first, *more = (set(part.covered) for part in self.parts)
        if differing := sorted({name for other in more for name in first ^ other}):
            raise MismatchError(
                "the curvatures do not cover the same parameters: "
                f"{listed(differing, 3)} are in some of them alone"
            )
        sizes = [a.provenance.size for a in others.curvatures]
        self.shares = [size / sum(sizes) for size in sizes]

    @property
    @override
    def covered(self) -> Collection[str]:
        return self.parts[0].covered

    @override
    def check(self, network: Network) -> None:
        for part in self.parts:
            part.check(network)

    @override
    def doubts(self, examples: Examples) -> list[str]:
        found = [doubt for part in self.parts for doubt in part.doubts(examples)]
        return list(dict.fromkeys(found))

    @override
    def prepare(self, network: Network, names: Sequence[str]) -> None:
        for part in self.parts:
            part.prepare(network, names)

    @override
    def __call__(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        pairs = zip(self.shares, self.parts, strict=True)
        return torch.stack([share * part(tau) for share, part in pairs]).sum()

    @override
    def backward(self, tau: Mapping[str, Tensor], weight: float) -> None:
        with leaves(tau) as held:
            for share, part in zip(self.shares, self.parts, strict=True):
                part.backward(held, weight * share)

    @override
    def describe(self) -> dict[str, Json]:
        sources = [s for part in self.parts for s in described(part.curvature)]
        return {"penalty": {"name": "kfac-per-task"}, "curvature": sources}


def described(curvature: Artifact) -> list[Json]:
    """What a task vector says of the curvature that held it back."""
    return [
        {
            "data": source.data.id,
            "fingerprint": source.data.fingerprint,
            "size": source.data.size,
            "digest": source.digest,
        }
        for source in curvature.provenance.sources
    ]
