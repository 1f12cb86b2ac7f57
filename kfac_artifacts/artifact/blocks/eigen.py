"""The block of a linear map in the eigenbases of its Kronecker factors: EK-FAC."""

import math
from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from kfac_artifacts.artifact.blocks.base import (
    FactorMapping,
    Matrices,
    Matrix,
    Shapes,
    Structures,
)
from kfac_artifacts.artifact.blocks.linear import LinearBlock
from kfac_artifacts.artifact.provenance import NamedConfig
from kfac_artifacts.json_object import JsonObject

STRUCTURES = {"A": "low_rank", "B": "low_rank", "S": "diagonal"}
"""What the factors have to be, by role."""


@final
@dataclass(frozen=True)
class EigenBlock(LinearBlock):
    """``B ⊗ A`` with corrected eigenvalues (EK-FAC: George et al. 2018).

    The one term is names of ``(A, B, S)``: the vectors of A and B are their
    eigenvectors, and S has an eigenvalue for each of B's with each of A's.
    """

    kind = "eigen"
    roles = ("A", "B", "S")

    @override
    def sizes(self, shapes: Shapes) -> list[tuple[str, int]]:
        ((a, b, _),) = self.terms
        d_out, d_in = self.dims(shapes)
        return [(a, d_in), (b, d_out)]

    @override
    def sizes_by_rank(self, structure: Structures) -> list[tuple[str, int]]:
        ((a, b, s),) = self.terms
        ranks: list[Any] = [structure(name).configuration["rank"] for name in (a, b)]
        return [(s, math.prod(ranks))]

    @override
    def usual_structures(self, shapes: Shapes) -> dict[str, NamedConfig]:
        found = {
            name: NamedConfig("low_rank", {"rank": dim, "diagonal": False})
            for name, dim in self.sizes(shapes)
        }
        return found | {self.terms[0][2]: NamedConfig("diagonal")}

    @override
    def misfit_of_factors(self, structure: Structures) -> str | None:
        for role, name in zip(self.roles, self.terms[0], strict=True):
            wanted, found = STRUCTURES[role], structure(name).name
            if found != wanted:
                return f"factor {name!r} must be {wanted}, not {found}"
        return None

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return (self.terms[0][0],)

    @property
    @override
    def outputs(self) -> tuple[str, ...]:
        return (self.terms[0][1],)

    @property
    @override
    def summed(self) -> tuple[str, ...]:
        return self.terms[0][1:]

    @property
    @override
    def bases(self) -> tuple[str, ...]:
        return self.terms[0][:2]

    @property
    @override
    def is_refitted(self) -> bool:
        return True

    @override
    def products(self, factors: FactorMapping, shapes: Shapes) -> list[Matrices]:
        return [(self._whole(factors),)]

    @override
    def product(self, W: Matrix, factors: FactorMapping) -> Matrix:
        whole = self._whole(factors)
        self.require_shape(W, (whole.B.dim, whole.A.dim))
        return whole.apply(W)

    @classmethod
    @override
    def from_json(cls, fields: JsonObject) -> "LinearBlock":
        return super().from_json(fields).with_one_term(fields)

    def _whole(self, factors: FactorMapping) -> Any:
        from kfac_artifacts.factors import eigen_product

        A, B, S = (factors[name] for name in self.terms[0])
        return eigen_product(A, B, S)
