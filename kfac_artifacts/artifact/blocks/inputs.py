"""The block of a linear map of which only the inputs are known."""

from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from kfac_artifacts.artifact.blocks.base import (
    FactorMapping,
    Matrices,
    Matrix,
    Shapes,
)
from kfac_artifacts.artifact.blocks.linear import LinearBlock
from kfac_artifacts.json_object import JsonObject


@final
@dataclass(frozen=True)
class InputsBlock(LinearBlock):
    """A linear map ``z = W a (+ b)``: ``I ⊗ A``, so that ``⟨W, W A⟩`` is ``E ‖W a‖²``.

    The one term is the name of ``(A,)``.
    """

    kind = "inputs"
    roles = ("A",)
    takes_constant = True

    @override
    def sizes(self, shapes: Shapes) -> list[tuple[str, int]]:
        return [(self.terms[0][0], self.input_dim(shapes))]

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return self.terms[0]

    @property
    @override
    def outputs(self) -> tuple[str, ...]:
        return ()

    @property
    @override
    def is_product(self) -> bool:
        return True

    @override
    def products(self, factors: FactorMapping, shapes: Shapes) -> list[Matrices]:
        from kfac_artifacts.factors import identity

        A = self._inputs(factors)
        return [(A, identity(self.dims(shapes)[0], A))]

    @override
    def product(self, W: Matrix, factors: FactorMapping) -> Matrix:
        A = self._inputs(factors)
        self.require_shape(W, (W.shape[0], A.dim))
        return A.matmul(W.mT).mT

    @classmethod
    @override
    def from_json(cls, fields: JsonObject) -> "LinearBlock":
        return super().from_json(fields).with_one_term(fields)

    def _inputs(self, factors: FactorMapping) -> Any:
        from kfac_artifacts.factors import without_constant

        A = factors[self.terms[0][0]]
        return without_constant(A) if self.constant else A
