"""The error of blocks of EK-FAC by a choice of vectors, without forming a matrix.

Storages round every vector by itself. So all vectors of an A or a B are rounded once,
and multiplied with one another once; whichever of them are kept, the squared dot
products that Frobenius norms are made of are a part of these tables.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress.compress_factor import Reduced
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Factor, LowRank, floats
from kfac_artifacts.format import rounded

Storage: TypeAlias = str | None
"""A storage that vectors were rounded to; None for vectors as they are."""
Places: TypeAlias = Tensor | slice
"""Which vectors are kept, of all that there are."""
ALL = slice(None)


@final
class Side:
    """All vectors of an A or a B, as they are and rounded, in float64.

    Args:
        factor: The factor.

    Raises:
        FactorError: If it has no vectors.
    """

    def __init__(self, factor: Factor) -> None:
        if not isinstance(factor, LowRank):
            raise FactorError(
                f"A and B of an eigen block must be low_rank, not {factor.name}"
            )
        self._factor = factor.to("cpu")
        self._squares: dict[Storage, Tensor] = {}
        self._overlaps: dict[tuple[Storage, Storage], Tensor] = {}

    @property
    def rank(self) -> int:
        """Number of all vectors."""
        return len(self._factor.values)

    def exact(self) -> "Kept":
        """Keep it as it is."""
        return self._kept(self._factor, None, ALL)

    def kept(self, found: Reduced, places: Tensor | None, storage: str) -> "Kept":
        """Say what was kept.

        Args:
            found: What was made of the factor.
            places: Which of the vectors were to be kept; None for all.
            storage: How it is stored.

        Returns:
            What there is of it. Nothing is left out where that would save nothing.
        """
        factor: Any = found.factor
        some = places is not None and len(factor.values) < self.rank
        return self._kept(
            factor,
            None if found.raised is None else storage,
            places if some and places is not None else ALL,
        )

    def _kept(self, factor: LowRank, storage: Storage, places: Places) -> "Kept":
        rest = None if factor.remainder is None else factor.remainder.double()
        return Kept(self, storage, places, factor.values.double(), rest)

    def squares(self, storage: Storage) -> Float[Tensor, "r d"]:
        """Squares of the vectors' entries."""
        if storage not in self._squares:
            self._squares[storage] = self._vectors(storage).square_()
        return self._squares[storage]

    def overlaps(self, one: Storage, other: Storage) -> Float[Tensor, "r r"]:
        """Squares of their dot products."""
        if (one, other) not in self._overlaps:
            rows, others = self._vectors(one), self._vectors(other)
            self._overlaps[one, other] = (rows @ others.mT).square_()
        return self._overlaps[one, other]

    def _vectors(self, storage: Storage) -> Float[Tensor, "r d"]:
        found: Any = self._factor
        if storage is not None:
            found = rounded(found, STORAGES[storage])
        return floats(found.vectors).to(torch.float64, copy=True)


@final
@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of a side: ``Σ λ v vᵀ`` over some vectors, and a diagonal beside it.

    Attributes:
        side: All vectors.
        storage: How those were rounded that are kept.
        places: Which are kept.
        values: Their λ.
        remainder: The diagonal, or None.
    """

    side: Side
    storage: Storage
    places: Places
    values: Float[Tensor, " k"]
    remainder: Float[Tensor, " d"] | None

    @property
    def parts(self) -> range:
        """Numbers of its parts: 0 is of the vectors, 1 the diagonal if there is one."""
        return range(1 if self.remainder is None else 2)

    def overlaps(self, other: "Kept") -> Float[Tensor, "k l"]:
        """``(v · w)²`` of every vector here with every one there."""
        table = self.side.overlaps(self.storage, other.storage)
        return table[self.places][:, other.places]

    def forms(self, other: "Kept") -> list[Float[Tensor, " k"]]:
        """``vᵀ F v`` of every vector here, for every part F there."""
        table = self.side.overlaps(self.storage, other.storage)
        values = table.new_zeros(table.shape[1])
        values[other.places] = other.values
        found = [(table @ values)[self.places]]
        if other.remainder is not None:
            squares = self.side.squares(self.storage)
            found.append((squares @ other.remainder)[self.places])
        return found

    def inner(self, other: "Kept") -> list[list[float]]:
        """Inner products of all parts here with all parts there."""
        found = [[float(self.values @ form) for form in self.forms(other)]]
        if self.remainder is not None:
            found.append([float(other.forms(self)[1] @ other.values)])
            if other.remainder is not None:
                found[1].append(float(self.remainder @ other.remainder))
        return found


@final
@dataclass(frozen=True, eq=False)
class KeptBlock:
    """What is kept of a block, as ``EigenProduct`` has it.

    Attributes:
        A: Of the inputs.
        B: Of the outputs.
        S: Corrected eigenvalues, in float64.
    """

    A: Kept
    B: Kept
    S: Float[Tensor, "k l"]
    _whole: dict[tuple[Storage, Storage], Tensor] = field(default_factory=dict)

    def inner(self, other: "KeptBlock") -> float:
        """The Frobenius inner product."""
        along = self._beside(other)
        total = float((self._seen_from(other) * other.S).sum()) + along
        total += along if other is self else other._beside(self)
        own, theirs = self._pairs(), other._pairs()
        if own and theirs:
            B, A = self.B.inner(other.B), self.A.inner(other.A)
            both = product(own, theirs)
            total += sum(B[b][d] * A[a][c] for (b, a), (d, c) in both)
        return total

    def _seen_from(self, other: "KeptBlock") -> Float[Tensor, "k l"]:
        """S along the vectors of another one; of all that there are at once."""
        if self.A.places is not ALL or self.B.places is not ALL:
            B, A = self.B.overlaps(other.B), self.A.overlaps(other.A)
            return B.mT @ self.S @ A
        key = other.B.storage, other.A.storage
        if key not in self._whole:
            B = self.B.side.overlaps(self.B.storage, key[0])
            A = self.A.side.overlaps(self.A.storage, key[1])
            self._whole[key] = B.mT @ self.S @ A
        return self._whole[key][other.B.places][:, other.A.places]

    def _beside(self, other: "KeptBlock") -> float:
        """The inner product of S here with what another one has beside its S."""
        if not other._pairs():
            return 0.0
        B, A = self.B.forms(other.B), self.A.forms(other.A)
        return float(sum(B[b] @ self.S @ A[a] for b, a in other._pairs()))

    def _pairs(self) -> list[tuple[int, int]]:
        """Which parts of B and A are multiplied beside S: not vectors with vectors."""
        every = product(self.B.parts, self.A.parts)
        return [pair for pair in every if pair != (0, 0)]
