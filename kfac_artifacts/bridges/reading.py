"""Factors that are read out of somebody else's files when they are asked for."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias, final

import torch
from typing_extensions import override

from kfac_artifacts.artifact import Factors, NamedConfig
from kfac_artifacts.bridges.statistics import Eigen, Matrix, Numbers
from kfac_artifacts.factors import Dense, Diagonal, Factor, LowRank

Origin: TypeAlias = Matrix | tuple[Numbers, ...]
"""A matrix; of one axis a diagonal, and several are the columns of one over ``W``."""


@final
class ReadFactors(Factors):
    """Factors of files."""

    def __init__(self, origins: Mapping[str, Origin]) -> None:
        self._origins = dict(origins)

    def __getitem__(self, name: str) -> Factor:
        """Read one."""
        found = self._origins[name]
        if isinstance(found, Eigen):
            vectors = found.vectors.get().float().mT.contiguous()
            return LowRank(vectors, found.values.get().float().clone())
        if isinstance(found, tuple):
            columns = [part.get().reshape(part.shape[0], -1) for part in found]
            return Diagonal(torch.cat(columns, dim=1).float().flatten())
        values = found.get().float().clone()  # it may be mapped, and of a file
        return Diagonal(values) if values.ndim == 1 else Dense(values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)

    @override
    def structure(self, name: str) -> NamedConfig:
        found = self._origins[name]
        if isinstance(found, Eigen):
            rank = found.vectors.shape[1]
            return NamedConfig("low_rank", {"rank": rank, "diagonal": False})
        diagonal = isinstance(found, tuple) or len(found.shape) == 1
        return NamedConfig("diagonal" if diagonal else "dense")

    @override
    def nbytes(self, name: str) -> int:
        found = self._origins[name]
        if isinstance(found, Eigen):
            return 4 * (found.vectors.size + found.values.size)
        return 4 * sum(
            part.size for part in (found if isinstance(found, tuple) else (found,))
        )
