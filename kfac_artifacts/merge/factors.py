"""Merged factors: signed sums and weighted means of those of the parts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Factors, Loss, NamedConfig
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import (
    Dense,
    Diagonal,
    Factor,
    check_factor,
    eigenvalue_ratio,
    lowest,
    weighted,
)
from kfac_artifacts.format import packed
from kfac_artifacts.merge.factor_sums import (
    Sum,
    combine,
    norm,
    shared_structure,
)

ROUNDING = 1e-6
"""How negative λ_min / λ_max may be after taking out what was not compressed."""


@dataclass(frozen=True, eq=False)
class Part:
    """An artifact that is added (sign 1) or taken out (sign -1)."""

    artifact: Artifact
    sign: int

    @property
    def size(self) -> int:
        """Signed number of examples: the weight of A and of Gramians."""
        return self.sign * self.artifact.provenance.size

    @property
    def excluded(self) -> tuple[str, ...]:
        """Parameters that were left out on request."""
        return self.artifact.provenance.excluded

    @property
    def tasks(self) -> int:
        """Signed number of tasks."""
        return self.sign * self.artifact.provenance.tasks


class MergedFactors(Factors):
    """Factors that are merged when they are asked for: one in memory at a time."""

    def __init__(
        self,
        parts: Sequence[Part],
        names: Mapping[str, Sequence[str]],
        summed: frozenset[str],
        dims: Mapping[str, int],
        weights: Mapping[str, Sequence[float]],
    ) -> None:
        self._parts = parts
        self._names = names  # of a merged factor -> of that factor in every part
        self._summed = summed
        self._dims = dims
        self._own_weights = weights  # where they are not those of the sizes
        self._total = sum(part.size for part in parts)

    def __getitem__(self, name: str) -> Factor:
        """Merge one factor, in float64; it is returned in float32 or better."""
        return self._merged(name).factor

    def dtype(self, name: str) -> torch.dtype:
        """The number type of a merged factor: that of the first part's."""
        part, own = self._own(name)[0]
        return part.artifact.factors[own].dtype

    def dense(self, name: str) -> Tensor:
        """Add the parts of a factor up in full, ``[d, d]`` in float64."""
        wide = (
            p.artifact.factors[own].to(dtype=torch.float64)
            for p, own in self._own(name)
        )
        return weighted((factor.to_dense() for factor in wide), self._weights(name))

    @override
    def structure(self, name: str) -> NamedConfig:
        """The structure that the parts share, or else dense."""
        found = [part.artifact.factors.structure(own) for part, own in self._own(name)]
        if any(part.sign < 0 for part in self._parts):
            found = found[:1]  # what is taken out is brought into that form
        shared = shared_structure(found, self._dims[name])
        if shared is None or shared.configuration.get("permuted"):
            whole = self[name]
            return NamedConfig(whole.name, whole.configuration)
        return shared

    @override
    def storage(self, name: str) -> str | None:
        """What the parts that are added share; of dense matrices one triangle."""
        shared = self.shared_storage(name)
        if shared is None or self.structure(name).name != Dense.name:
            return shared
        return packed(shared)

    def shared_storage(self, name: str) -> str | None:
        """What the parts that are added share."""
        found = {
            p.artifact.factors.storage(own) for p, own in self._own(name) if p.sign > 0
        }
        return found.pop() if len(found) == 1 else None

    def loss(self, name: str) -> Loss | None:
        """What compressing the parts lost, and merging them again.

        Args:
            name: Of a merged factor.

        Returns:
            Bounds from those of the parts; None if they lost nothing, nor this.
        """
        if not self._lossy(name) and all(part.sign > 0 for part in self._parts):
            return None
        losses = [p.artifact.provenance.losses.get(own) for p, own in self._own(name)]
        merged = self._merged(name)
        if not any(losses) and merged.lost == merged.lift == 0:
            return None
        low, high = merged.factor.eigenvalue_range()
        size, lost = norm(merged.factor), merged.lost
        own = zip(losses, self._own(name), self._weights(name), strict=True)
        for loss, (part, factor), weight in own:
            if loss is not None:
                lost += abs(weight) * loss.error * norm(part.artifact.factors[factor])
        ratio = eigenvalue_ratio(low - merged.lift, high - merged.lift)
        return Loss(lost / size if size > 0 else 0.0, ratio, merged.lift)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _own(self, name: str) -> list[tuple[Part, str]]:
        return list(zip(self._parts, self._names[name], strict=True))

    def _weights(self, name: str) -> list[float]:
        if name in self._own_weights:
            return list(self._own_weights[name])
        summed = name in self._summed
        return [float(p.sign if summed else p.size / self._total) for p in self._parts]

    def _merged(self, name: str) -> Sum:
        """Add the parts up.

        Taking out what was compressed may leave eigenvalues below zero, which would
        reward drift: the diagonal is raised by that much.

        Returns:
            The sum in the number type of the first part.

        Raises:
            FactorError: If the sum is beyond that number type.
        """
        factors = [part.artifact.factors[own] for part, own in self._own(name)]
        first = factors[0]
        factors = [
            first.restructure(factor) if part.sign < 0 else factor
            for part, factor in zip(self._parts, factors, strict=True)
        ]
        found = combine(factors, self._weights(name))
        factor, lift = found.factor, 0.0
        if any(part.sign < 0 for part in self._parts):
            lift = self._missing(name, factor)
            factor = factor.add_diagonal(lift) if lift > 0 else factor
        rounded = factor.to(dtype=first.dtype)
        try:
            check_factor(rounded)
        except FactorError as error:
            raise FactorError(f"{name} cannot be merged: {error}") from error
        return Sum(rounded, found.lost, lift)

    def _missing(self, name: str, factor: Factor) -> float:
        """How far an eigenvalue is below zero, where that is more than rounding."""
        if not self._lossy(name) and lowest(factor, ROUNDING) >= -ROUNDING:
            return 0.0
        return max(0.0, -factor.eigenvalue_range()[0])

    def _lossy(self, name: str) -> bool:
        """Whether a part was compressed: it says so, or has a structure that does."""
        return any(
            own in part.artifact.provenance.losses
            or part.artifact.factors.structure(own).name
            not in {Dense.name, Diagonal.name}
            for part, own in self._own(name)
        )
