"""Low-rank factor: the leading eigenvectors, and the diagonal of what is left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.eigen import eigh
from kfac_artifacts.factors.fields import (
    Configuration,
)
from kfac_artifacts.factors.int8 import Int8Entries, Numbers, floats


@final
@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Factor):
    """``M = Σ_k λ_k u_k u_kᵀ + diag(δ)``: ``2 r d`` operations per column, not ``d²``.

    Without the diagonal every direction outside the span is free of any penalty.

    Attributes:
        vectors: u_k as rows; they need not be orthonormal.
        values: λ_k.
        remainder: δ, or None for zero.

    Example:
        >>> matrix = torch.tensor([[4.0, 1.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
        >>> factor = LowRank.of_dense(matrix, rank=1)
        >>> factor.values.round(decimals=4)
        tensor([5.])
        >>> factor.diagonal().round(decimals=4)  # that of the matrix, by the remainder
        tensor([4., 4., 2.])
        >>> bare = LowRank.of_dense(matrix, rank=1, remainder=False)
        >>> bare.diagonal().round(decimals=4)
        tensor([2.5000, 2.5000, 0.0000])
    """

    name: ClassVar[str] = "low_rank"

    vectors: Float[Tensor, "r d"] | Int8Entries
    values: Float[Tensor, " r"]
    remainder: Float[Tensor, " d"] | None = None

    @classmethod
    def of_dense(
        cls,
        matrix: Float[Tensor, "d d"],
        rank: int,
        *,
        remainder: bool = True,
        definite: bool = True,
    ) -> "LowRank":
        """Keep the eigenvectors of largest eigenvalues.

        Args:
            matrix: A symmetric matrix.
            rank: How many to keep.
            remainder: Whether to keep the diagonal of the others.
            definite: Whether the matrix stands for a semidefinite one, so that negative
                values are rounding; else the largest in magnitude are kept.

        Returns:
            The factor; semidefinite if that is asked for.
        """
        values, vectors = eigh(matrix)
        kept = cls.of_eigen(values, vectors, rank, definite=definite)
        if not remainder:
            return kept
        return kept.completed(matrix.diagonal(), definite=definite)

    @classmethod
    def of_eigen(
        cls,
        values: Float[Tensor, " k"],
        vectors: Float[Tensor, "d k"],
        rank: int,
        *,
        definite: bool = True,
    ) -> "LowRank":
        """Keep the largest of the eigenvectors in columns; see ``of_dense``."""
        size = values if definite else values.abs()
        kept = size.argsort(descending=True)[:rank]
        found = values[kept].clamp(min=0) if definite else values[kept]
        return cls(vectors.mT[kept].contiguous(), found)

    def completed(
        self, diagonal: Float[Tensor, " d"], *, definite: bool = True
    ) -> "LowRank":
        """Choose the remainder that makes the diagonal what it was.

        Args:
            diagonal: Of the matrix that this is made from.
            definite: Whether no entry of the remainder may be negative.

        Returns:
            The same vectors and values, with that remainder.
        """
        rest = diagonal - LowRank(self.vectors, self.values).diagonal()
        return LowRank(
            self.vectors, self.values, rest.clamp(min=0) if definite else rest
        )

    @classmethod
    @override
    def from_fields(cls, fields: Any, configuration: Configuration) -> "LowRank":
        return cls(fields["vectors"], fields["values"], fields.get("diagonal"))

    @classmethod
    @override
    def sum_configuration(
        cls, summands: Sequence[Configuration], dim: int
    ) -> Configuration | None:
        rank = max(configuration["rank"] for configuration in summands)
        rest = any(configuration["diagonal"] for configuration in summands)
        return {"rank": min(rank, dim), "diagonal": rest}

    @property
    @override
    def configuration(self) -> dict[str, Any]:
        return {"rank": len(self.values), "diagonal": self.remainder is not None}

    @property
    @override
    def dim(self) -> int:
        vectors = self.vectors
        return (vectors if isinstance(vectors, Tensor) else vectors.codes).shape[1]

    @override
    def fields(self) -> dict[str, Numbers]:
        found: dict[str, Numbers] = {"vectors": self.vectors, "values": self.values}
        return found if self.remainder is None else found | {"diagonal": self.remainder}

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        vectors = floats(self.vectors)
        along = self.values[:, None] * (vectors @ x)
        if self.remainder is None:
            return vectors.mT @ along
        return (self.remainder[:, None] * x).addmm_(vectors.mT, along)

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        vectors = floats(self.vectors)
        matrix = (vectors.mT * self.values) @ vectors
        # products may round asymmetrically, and a sum may be beyond float32
        matrix = matrix / 2 + matrix.mT / 2
        return matrix if self.remainder is None else matrix + torch.diag(self.remainder)

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        vectors = floats(self.vectors)  # their squares may be beyond float32
        found = (self.values[:, None] * vectors * vectors).sum(0)
        return found if self.remainder is None else found + self.remainder

    @override
    def eigenvalue_range(self) -> tuple[float, float]:
        squares = floats(self.vectors).double().square().sum(1)
        parts = self.values.double() * squares
        low, high = parts.clamp(max=0).sum(), parts.clamp(min=0).sum()
        if self.remainder is not None:
            rest = self.remainder.min()
            # a remainder must not hide that a value is negative
            low = low + (rest.clamp(max=0) if low < 0 else rest)
            high = high + self.remainder.max()
        return float(low), float(high)

    @override
    def weighted_sum(
        self, others: Sequence[Factor], weights: Sequence[float]
    ) -> tuple[Factor, float] | None:
        # eigenvectors of the sum are found in the span of all; as many are kept as the
        # largest rank says, without what is negative, and the diagonal of the rest
        factors = [self, *(other for other in others if isinstance(other, LowRank))]
        if len(factors) < 1 + len(others):
            return None
        vectors = torch.cat([floats(f.vectors) for f in factors])
        pairs = list(zip(factors, weights, strict=True))
        values = torch.cat([w * f.values for f, w in pairs])
        basis, coordinates = torch.linalg.qr(vectors.mT)
        found = torch.linalg.eigh((coordinates * values) @ coordinates.mT)
        directions = (basis @ found.eigenvectors).mT
        rank = min(max(len(f.values) for f in factors), len(found.eigenvalues))
        order = found.eigenvalues.argsort(descending=True)
        kept, cut = order[:rank], order[rank:]
        leading = found.eigenvalues[kept].clamp(min=0)
        dropped = torch.cat([found.eigenvalues[cut], found.eigenvalues[kept] - leading])
        rests = [w * f.remainder for f, w in pairs if f.remainder is not None]
        lost = float(dropped.square().sum())
        if not rests:
            return LowRank(directions[kept], leading), lost**0.5
        moved = dropped @ torch.cat([directions[cut], directions[kept]]).square()
        total = torch.stack(rests).sum(0) + moved
        diagonal = total.clamp(min=0)
        lost += float((diagonal - total).square().sum() - moved.square().sum())
        return LowRank(directions[kept], leading, diagonal), max(lost, 0.0) ** 0.5

    @override
    def restructure(self, other: Factor) -> Factor:
        if isinstance(other, LowRank):
            return other
        matrix, rest = other.to_dense().to(torch.float64), self.remainder is not None
        return LowRank.of_dense(matrix, len(self.values), remainder=rest)

    @override
    def sum_bound(self) -> float:
        bound = self.values.double().abs() @ floats(self.vectors).double().square()
        if self.remainder is not None:
            bound = bound + self.remainder.double().abs()
        return float(bound.max())

    @override
    def _inner(self, other: Factor) -> Tensor:
        """``Σ_k λ_k u_kᵀ F u_k``, and the product of the diagonals."""
        vectors = floats(self.vectors).double()
        wide = other.to(dtype=torch.float64)  # products of large factors stay finite
        forms = (vectors * wide.matmul(vectors.mT).mT).sum(1)
        total = self.values.double() @ forms
        if self.remainder is None:
            return total
        return total + self.remainder.double() @ other.diagonal().double()

    @override
    def add_diagonal(self, amount: float) -> "LowRank":
        rest = self.remainder
        if rest is None:
            rest = self.values.new_zeros(self.dim)
        return LowRank(self.vectors, self.values, rest + amount)
