"""Factors by name: held in memory, or read or computed when they are asked for."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import final

from typing_extensions import override

from kfac_artifacts.artifact.blocks.base import FactorMapping
from kfac_artifacts.artifact.provenance import NamedConfig
from kfac_artifacts.factors import Factor


class Factors(FactorMapping):
    """Factors by name, and what is known of one without having it."""

    @abstractmethod
    def structure(self, name: str) -> NamedConfig:
        """A factor's structure with its configuration."""

    def storage(self, name: str) -> str | None:
        """How a factor is stored, if that is to be kept; None if it is all the same."""
        return None

    def is_exact(self, name: str) -> bool:
        """Whether it is known that storing a factor has not rounded it."""
        return False

    def nbytes(self, name: str) -> int:
        """Size of a factor in bytes, as it is stored if it is."""
        return self[name].nbytes


@final
class HeldFactors(Factors):
    """Factors in memory."""

    def __init__(self, factors: FactorMapping) -> None:
        self._factors = dict(factors)

    def __getitem__(self, name: str) -> Factor:
        """The factor itself."""
        return self._factors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    @override
    def structure(self, name: str) -> NamedConfig:
        factor = self[name]
        return NamedConfig(factor.name, factor.configuration)
