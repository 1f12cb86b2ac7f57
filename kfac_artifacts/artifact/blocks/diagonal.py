"""The block of a linear map of which only the diagonal is known."""

import math
from dataclasses import dataclass
from typing import final

from typing_extensions import override

from kfac_artifacts.artifact.blocks.base import (
    FactorMapping,
    Matrix,
    Shapes,
    Structures,
)
from kfac_artifacts.artifact.blocks.linear import LinearBlock
from kfac_artifacts.artifact.provenance import NamedConfig
from kfac_artifacts.json_object import JsonObject


@final
@dataclass(frozen=True)
class DiagonalBlock(LinearBlock):
    """A linear map: the diagonal S of its Gramian, so that ``W`` becomes ``S ∘ W``.

    The one term is the name of ``(S,)``, a diagonal factor over ``vec W``.
    """

    kind = "diagonal"
    roles = ("S",)

    @override
    def sizes(self, shapes: Shapes) -> list[tuple[str, int]]:
        return [(self.terms[0][0], math.prod(self.dims(shapes)))]

    @override
    def usual_structures(self, shapes: Shapes) -> dict[str, NamedConfig]:
        return {self.terms[0][0]: NamedConfig("diagonal")}

    @override
    def misfit_of_factors(self, structure: Structures) -> str | None:
        (name,) = self.terms[0]
        found = structure(name).name
        wrong = found != "diagonal"
        return f"factor {name!r} must be diagonal, not {found}" if wrong else None

    @override
    def product(self, W: Matrix, factors: FactorMapping) -> Matrix:
        S = factors[self.terms[0][0]].diagonal()
        if len(S) != W.numel():
            self.require_shape(W, (1, len(S)))  # of whatever rows, another number
        return S.view_as(W) * W

    @classmethod
    @override
    def from_json(cls, fields: JsonObject) -> "LinearBlock":
        return super().from_json(fields).with_one_term(fields)
