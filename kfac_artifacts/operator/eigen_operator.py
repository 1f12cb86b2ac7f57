"""The operator of a block in the eigenbases of its Kronecker factors."""

from dataclasses import dataclass, replace
from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import EigenProduct
from kfac_artifacts.operator.block_operators import (
    BlockOperator,
    SolvedBlock,
    SpectralBlock,
)
from kfac_artifacts.operator.solve import Solver
from kfac_artifacts.operator.spectrum import Eigen

ORTHONORMAL = 1e-4
"""How far products of vectors may be from those of orthonormal ones: float32's are."""


@final
@dataclass(frozen=True, eq=False)
class EigenOperator(BlockOperator):
    """``scale K + damping I`` for the matrix K of an eigen block.

    With all vectors of A and B, orthonormal, every function of it is exact; else only
    the inverse is available, by conjugate gradients.
    """

    name: str
    whole: EigenProduct
    scale: float
    damping: float

    @property
    @override
    def described(self) -> str:
        ranks = tuple(self.whole.values.shape)
        return f"given by {ranks[0]} and {ranks[1]} vectors that are rounded or not all"

    @override
    def product(self, W: Float[Tensor, "o i k"]) -> Float[Tensor, "o i k"]:
        found = self.whole.apply(W.movedim(-1, 0)).movedim(0, -1)
        return self.scale * found + self.damping * W

    @override
    def diagonal(self) -> Float[Tensor, "o i"]:
        found = self.whole.diagonal().view(self.whole.B.dim, self.whole.A.dim)
        return self.scale * found + self.damping

    @override
    def squared_norm(self) -> Float[Tensor, ""]:
        # ‖K + δI‖² = ‖K‖² + δ (tr K + tr(K + δI))
        diagonal = self.diagonal()
        traces = 2 * diagonal.sum() - self.damping * diagonal.numel()
        squares = self.scale**2 * self.whole.inner(self.whole)
        return squares.to(traces.dtype) + self.damping * traces

    @override
    def eigenvalues(self) -> Float[Tensor, "o i"]:
        return self._spectral("its eigenvalues are").values

    @override
    def power(self, exponent: float, damping: float, solver: Solver) -> BlockOperator:
        if exponent == -1 and not self._is_spectral:
            damped = replace(self, damping=self.damping + damping)
            return SolvedBlock(damped, solver)
        spectral = self._spectral(f"its power {exponent} is")
        return spectral.power(exponent, damping, solver)

    @property
    def _is_spectral(self) -> bool:
        return self.whole.is_complete and all(map(_is_orthonormal, self.whole.bases))

    def _spectral(self, what: str) -> SpectralBlock:
        if not self._is_spectral:
            raise FactorError(
                f"{self.name} is {self.described}; {what} not known from them. Use the "
                "artifact that was not compressed, or to_scipy() with an iterative "
                "method"
            )
        outputs, inputs = self.whole.bases
        values = self.scale * self.whole.values + self.damping
        B = Eigen(self.whole.B.values, outputs.mT)
        A = Eigen(self.whole.A.values, inputs.mT)
        return SpectralBlock(self.name, B, A, values)


def _is_orthonormal(rows: Tensor) -> bool:
    products = rows @ rows.mT
    products.diagonal().sub_(1)
    return bool(products.abs().max() <= ORTHONORMAL)
