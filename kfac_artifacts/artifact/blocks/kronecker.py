"""The block of a linear map: a sum of Kronecker products."""

from dataclasses import dataclass
from typing import final

from typing_extensions import override

from kfac_artifacts.artifact.blocks.base import FactorMapping, Matrices, Shapes
from kfac_artifacts.artifact.blocks.linear import Layout, LinearBlock


@final
@dataclass(frozen=True)
class KroneckerBlock(LinearBlock):
    """A linear map ``z = W a (+ b)``: ``Σ_r B_r ⊗ A_r`` (TAK, Eq. 6).

    The terms are names of ``(A, B)``.
    """

    kind = "kronecker"
    roles = ("A", "B")
    takes_constant = True

    @override
    def sizes(self, shapes: Shapes) -> list[tuple[str, int]]:
        d_out, d_in = self.dims(shapes)[0], self.input_dim(shapes)
        return [size for a, b in self.terms for size in ((a, d_in), (b, d_out))]

    @override
    def products(self, factors: FactorMapping, shapes: Shapes) -> list[Matrices]:
        found = super().products(factors, shapes)
        if not self.constant:
            return found
        from kfac_artifacts.factors import without_constant

        return [(without_constant(A), B) for A, B in found]

    @property
    @override
    def summed(self) -> tuple[str, ...]:
        return self.outputs

    @property
    @override
    def is_table(self) -> bool:
        # other maps in columns have a bias or a part
        return (self.layout, self.bias, self.part) == (Layout.COLUMNS, None, None)
