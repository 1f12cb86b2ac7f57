"""One block of the operator, acting on matrices ``W`` of shape ``[d_out, d_in]``.

Every kind of block is ``c Σ_r B_r ⊗ A_r + δ I`` on ``vec W``: a Gramian is the single
term with the ``1 x 1`` matrix ``A = [1]``. With one term, the eigenvectors of the two
factors are those of the block, so every function of the block is exact and cheap; with
several terms only the inverse is available, by conjugate gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import FactorError
from kfac_artifacts.operator.solve import Solver, conjugate_gradients
from kfac_artifacts.operator.spectrum import Decomposed, Eigen


class BlockOperator(ABC):
    """A symmetric operator on ``vec W``, called by the name of its block."""

    name: str

    @property
    def described(self) -> str:
        """What it is, for messages, where its powers are not known."""
        return "a block"

    @abstractmethod
    def product(self, W: Float[Tensor, "o i k"]) -> Float[Tensor, "o i k"]:
        """Apply the block to ``k`` matrices at once."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, "o i"]:
        """The diagonal, arranged as ``W``."""

    @abstractmethod
    def squared_norm(self) -> Float[Tensor, ""]:
        """The squared Frobenius norm."""

    @abstractmethod
    def eigenvalues(self) -> Float[Tensor, "o i"]:
        """All eigenvalues, in no particular order."""

    @abstractmethod
    def power(self, exponent: float, damping: float, solver: Solver) -> "BlockOperator":
        """``(block + damping I)^exponent``."""


@final
@dataclass(frozen=True, eq=False)
class SpectralBlock(BlockOperator):
    """``(Q_B ⊗ Q_A) diag(values) (Q_B ⊗ Q_A)ᵀ``; the values are arranged as ``W``."""

    name: str
    B: Eigen
    A: Eigen
    values: Float[Tensor, "o i"]

    @override
    def product(self, W: Float[Tensor, "o i k"]) -> Float[Tensor, "o i k"]:
        inside = _both_sides(self.B.into, W, self.A.into) * self.values[..., None]
        return _both_sides(self.B.back, inside, self.A.back)

    @override
    def diagonal(self) -> Float[Tensor, "o i"]:
        squared = (self.B.squared_back, self.A.squared_back)
        return _both_sides(squared[0], self.values[..., None], squared[1])[..., 0]

    @override
    def squared_norm(self) -> Float[Tensor, ""]:
        return self.values.square().sum()

    @override
    def eigenvalues(self) -> Float[Tensor, "o i"]:
        return self.values

    @override
    def power(self, exponent: float, damping: float, solver: Solver) -> "SpectralBlock":
        values = positive(self.values + damping, self.name).pow(exponent)
        return SpectralBlock(self.name, self.B, self.A, values)


@final
@dataclass(frozen=True, eq=False)
class KroneckerSum(BlockOperator):
    """``scale Σ_r B_r ⊗ A_r + damping I``; ``terms`` are the pairs ``(B, A)``."""

    name: str
    terms: Sequence[tuple[Decomposed, Decomposed]]
    scale: float
    damping: float

    @override
    def product(self, W: Float[Tensor, "o i k"]) -> Float[Tensor, "o i k"]:
        total = self.damping * W
        for B, A in self.terms:
            term = _both_sides(B.factor.matmul, W, A.factor.matmul)
            total = total + self.scale * term
        return total

    @override
    def diagonal(self) -> Float[Tensor, "o i"]:
        pairs = [(B.factor.diagonal(), A.factor.diagonal()) for B, A in self.terms]
        total = torch.stack([torch.outer(b, a) for b, a in pairs]).sum(0)
        return self.scale * total + self.damping

    @override
    def squared_norm(self) -> Float[Tensor, ""]:
        # ⟨B ⊗ A, B' ⊗ A'⟩ = ⟨B, B'⟩ ⟨A, A'⟩; ‖K + δI‖² = ‖K‖² + δ (tr K + tr(K + δI))
        norms = [
            B.factor.inner(D.factor) * A.factor.inner(C.factor)
            for B, A in self.terms
            for D, C in self.terms
        ]
        diagonal = self.diagonal()
        traces = 2 * diagonal.sum() - self.damping * diagonal.numel()
        return self.scale**2 * torch.stack(norms).sum() + self.damping * traces

    @property
    @override
    def described(self) -> str:
        return f"a sum of {len(self.terms)} Kronecker products"

    @override
    def eigenvalues(self) -> Float[Tensor, "o i"]:
        return self._spectral("their eigenvalues are").values

    @override
    def power(self, exponent: float, damping: float, solver: Solver) -> BlockOperator:
        if len(self.terms) > 1 and exponent == -1:
            total = self.damping + damping
            return SolvedBlock(
                KroneckerSum(self.name, self.terms, self.scale, total), solver
            )
        spectral = self._spectral(f"the power {exponent} of their sum is")
        return spectral.power(exponent, damping, solver)

    def _spectral(self, what: str) -> SpectralBlock:
        if len(self.terms) > 1:
            raise FactorError(
                f"{self.name} is {self.described}; {what} "
                "not known from the factors. Merge to a single term, or use "
                "to_scipy() with an iterative method"
            )
        ((B, A),) = self.terms
        outer = torch.outer(B.eigen.values, A.eigen.values)
        values = self.scale * outer + self.damping
        return SpectralBlock(self.name, B.eigen, A.eigen, values)


@final
@dataclass(frozen=True, eq=False)
class SolvedBlock(BlockOperator):
    """The inverse of a block of unknown spectrum, by conjugate gradients."""

    of: BlockOperator
    solver: Solver

    @property
    def name(self) -> str:  # type: ignore[override]
        """The block's name."""
        return self.of.name

    @override
    def product(self, W: Float[Tensor, "o i k"]) -> Float[Tensor, "o i k"]:
        scaling = positive(self.of.diagonal(), self.name)[..., None]
        return conjugate_gradients(
            self.of.product, W, scaling, self.solver, name=self.name
        )

    @override
    def diagonal(self) -> Float[Tensor, "o i"]:
        self._refuse("diagonal")

    @override
    def squared_norm(self) -> Float[Tensor, ""]:
        self._refuse("norm")

    @override
    def eigenvalues(self) -> Float[Tensor, "o i"]:
        self._refuse("eigenvalues")

    @override
    def power(self, exponent: float, damping: float, solver: Solver) -> BlockOperator:
        self._refuse("powers")

    def _refuse(self, what: str) -> NoReturn:
        raise FactorError(
            f"the inverse of {self.name}, {self.of.described}, is only applied, by "
            f"conjugate gradients: it has no {what}"
        )


def positive(values: Float[Tensor, "*shape"], name: str) -> Float[Tensor, "*shape"]:
    """Give the values back if all are positive.

    Args:
        values: Eigenvalues, or the diagonal, of a damped block.
        name: The block's name.

    Returns:
        The same values.

    Raises:
        FactorError: If one is not positive, with the damping that is missing.
    """
    smallest = values.min().item()
    if not smallest > 0:
        raise FactorError(
            f"{name} is not positive definite: it has an eigenvalue of {smallest:.3g} "
            f"or less; add a damping above {-smallest:.3g}"
        )
    return values


def _both_sides(
    left: Callable[[Tensor], Tensor],
    W: Float[Tensor, "o i k"],
    right: Callable[[Tensor], Tensor],
) -> Float[Tensor, "o i k"]:
    """``L W Rᵀ`` for ``k`` matrices, L and R given by what they do to columns."""
    o, i, k = W.shape
    half = left(W.reshape(o, i * k)).reshape(o, i, k).transpose(0, 1)
    return right(half.reshape(i, o * k)).reshape(i, o, k).transpose(0, 1)
