"""The matrix of a block in the eigenbases of its Kronecker factors (EK-FAC).

It is made from three factors, and never formed or stored itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NoReturn, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.diagonal import Diagonal
from kfac_artifacts.factors.int8 import floats
from kfac_artifacts.factors.low_rank import LowRank


@final
@dataclass(frozen=True, eq=False, repr=False)
class EigenProduct(Factor):
    """``Σ_ij S_ij (v_i ⊗ u_j)(v_i ⊗ u_j)ᵀ`` on ``vec W``, and what A and B have beside.

    u_j and v_i are the vectors of A and B. With the outer products of their values for
    S it is ``B ⊗ A``; S corrects them to what the data say along these directions
    (George et al. 2018). What A and B have beside their vectors, their remainders,
    counts as in ``B ⊗ A``.

    Attributes:
        A: Of the inputs, ``[d_in, d_in]``.
        B: Of the outputs, ``[d_out, d_out]``.
        S: The corrected eigenvalues, ``r_B`` rows of ``r_A``, flattened.
    """

    name: ClassVar[str] = "eigen product"

    A: LowRank
    B: LowRank
    S: Diagonal

    @property
    @override
    def dim(self) -> int:
        return self.B.dim * self.A.dim

    @cached_property
    def bases(self) -> tuple[Tensor, Tensor]:
        """The vectors of B and of A, as rows."""
        return floats(self.B.vectors), floats(self.A.vectors)

    @property
    def values(self) -> Float[Tensor, "o i"]:
        """S, arranged by the vectors of B and of A."""
        return self.S.diagonal().view(len(self.B.values), len(self.A.values))

    @property
    def is_complete(self) -> bool:
        """Whether all directions are among the vectors, so that S is the spectrum."""
        return all(
            len(factor.values) == factor.dim and factor.remainder is None
            for factor in (self.A, self.B)
        )

    def rest(self) -> Iterator[tuple[Factor, Factor]]:
        """The pairs ``(B, A)`` that ``B ⊗ A`` has beside its vectors' part."""
        leading = LowRank(self.B.vectors, self.B.values)
        if self.A.remainder is not None:
            yield leading, Diagonal(self.A.remainder)
        if self.B.remainder is not None:
            yield Diagonal(self.B.remainder), self.A

    def apply(self, W: Float[Tensor, "*k o i"]) -> Float[Tensor, "*k o i"]:
        """Multiply with matrices ``W``, of shape ``[d_out, d_in]``."""
        outputs, inputs = self.bases
        found = outputs.mT @ (self.values * (outputs @ W @ inputs.mT)) @ inputs
        for B, A in self.rest():
            half = _columns(B, W)
            found = found + _columns(A, half.mT).mT
        return found

    def projected(self, other: "EigenProduct") -> Float[Tensor, "o i"]:
        """Measure another one along these directions.

        Args:
            other: Of the same sizes; its vectors may be others.

        Returns:
            ``(v ⊗ u)ᵀ K (v ⊗ u)`` for each of B's vectors with each of A's. If these
            are orthonormal it is the S that comes closest to K (Frobenius).
        """
        outputs, inputs = self.bases
        theirs = other.bases
        squares = [
            (mine @ their.mT).square()
            for mine, their in zip((outputs, inputs), theirs, strict=True)
        ]
        found = squares[0] @ other.values @ squares[1].mT
        for B, A in other.rest():
            found = found + torch.outer(_forms(B, outputs), _forms(A, inputs))
        return found

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        W = x.mT.reshape(x.shape[1], self.B.dim, self.A.dim)
        return self.apply(W).flatten(1).mT

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        like = self.A.values
        matrix = self.matmul(torch.eye(self.dim, dtype=like.dtype, device=like.device))
        return (matrix + matrix.mT) / 2

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        outputs, inputs = (basis.square() for basis in self.bases)
        found = outputs.mT @ self.values @ inputs
        for B, A in self.rest():
            found = found + torch.outer(B.diagonal(), A.diagonal())
        return found.flatten()

    @override
    def eigenvalue_range(self) -> tuple[float, float]:
        low, high = self.S.eigenvalue_range()
        if not self.is_complete:  # directions of no vector, and what is beside
            low, high = min(low, 0.0), max(high, 0.0)
        for B, A in self.rest():
            ends = [b * a for b in B.eigenvalue_range() for a in A.eigenvalue_range()]
            low, high = low + min(*ends, 0.0), high + max(*ends, 0.0)
        return low, high

    @override
    def _inner(self, other: Factor) -> Tensor | None:
        if not isinstance(other, EigenProduct):
            return None
        one, two = (each.to(dtype=torch.float64) for each in (self, other))
        # ⟨Σ S (v⊗u)(v⊗u)ᵀ, K⟩ = ⟨S, K along these directions⟩; the rest by its pairs
        total = (one.values * one.projected(two)).sum()
        for B, A in one.rest():
            forms = _forms(B, two.bases[0]), _forms(A, two.bases[1])
            total = total + forms[0] @ two.values @ forms[1]
            for D, C in two.rest():
                total = total + B.inner(D) * A.inner(C)
        return total

    @override
    def add_diagonal(self, amount: float) -> NoReturn:
        raise FactorError("the matrix of an eigen block is not kept; damp an operator")

    @override
    def tensors(self) -> dict[str, Tensor]:
        parts = (self.A, self.B, self.S)
        named = zip("ABS", (part.tensors() for part in parts), strict=True)
        return {f"{key}/{n}": x for key, own in named for n, x in own.items()}


def eigen_product(A: Factor, B: Factor, S: Factor) -> EigenProduct:
    """Make the matrix of a block of its factors.

    Args:
        A: Of the inputs; its vectors are the directions.
        B: Of the outputs.
        S: The corrected eigenvalues.

    Returns:
        The matrix.

    Raises:
        FactorError: If they do not belong together.
    """
    if not (isinstance(A, LowRank) and isinstance(B, LowRank)):
        raise FactorError(
            f"A and B of an eigen block must be low_rank, not {A.name} and {B.name}"
        )
    if not isinstance(S, Diagonal):
        raise FactorError(f"S of an eigen block must be diagonal, not {S.name}")
    ranks = len(B.values), len(A.values)
    if S.dim != ranks[0] * ranks[1]:
        raise FactorError(
            f"S of an eigen block has {S.dim} values, but B has {ranks[0]} vectors and "
            f"A has {ranks[1]}"
        )
    return EigenProduct(A, B, S)


def _columns(factor: Factor, x: Float[Tensor, "*k d n"]) -> Float[Tensor, "*k d n"]:
    """Multiply a factor with the columns of all matrices of a stack."""
    if x.dim() == 2:
        return factor.matmul(x)
    moved: Any = x.movedim(-2, 0)
    return factor.matmul(moved.flatten(1)).view(moved.shape).movedim(0, -2)


def _forms(factor: Factor, rows: Float[Tensor, "r d"]) -> Float[Tensor, " r"]:
    """``rᵀ F r`` of every row."""
    return (rows * factor.matmul(rows.mT).mT).sum(1)
