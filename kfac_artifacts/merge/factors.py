"""Merged factors: signed sums and weighted means of those of the parts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, LazyFactors
from kfac_artifacts.factors import Dense, Factor


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


class MergedFactors(LazyFactors):
    """Factors that are merged when they are asked for: one in memory at a time."""

    def __init__(
        self,
        parts: Sequence[Part],
        names: Mapping[str, Sequence[str]],
        summed: frozenset[str],
    ) -> None:
        self._parts = parts
        self._names = names  # of a merged factor -> of that factor in every part
        self._summed = summed
        self._total = sum(part.size for part in parts)

    def __getitem__(self, name: str) -> Factor:
        """Merge one factor, in float64; it is returned in float32 or better."""
        total: Factor | None = None
        for part, own in zip(self._parts, self._names[name], strict=True):
            weight = part.sign if name in self._summed else part.size / self._total
            total = _add(total, part.artifact.factors[own], float(weight))
        if total is None:
            raise KeyError(name)
        first = self._parts[0].artifact.factors[self._names[name][0]]
        return total.to(dtype=_dtype(first))

    @override
    def structure(self, name: str) -> str:
        """The structure that the parts share, or else dense."""
        pairs = zip(self._parts, self._names[name], strict=True)
        found = {part.artifact.structure(own) for part, own in pairs}
        return found.pop() if len(found) == 1 else Dense.name

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _add(total: Factor | None, factor: Factor, weight: float) -> Factor:
    """``total + weight * factor`` in float64, in one structure or else dense."""
    scaled = factor.to(dtype=torch.float64)
    fields = {name: weight * t for name, t in scaled.tensors().items()}
    term = type(factor)(**fields)
    if total is None:
        return term
    if type(total) is type(term):
        return type(term)(
            **{name: t + fields[name] for name, t in total.tensors().items()}
        )
    return Dense(total.to_dense() + term.to_dense())


def _dtype(factor: Factor) -> torch.dtype:
    return next(iter(factor.tensors().values())).dtype
