"""The block of a small parameter: its whole Gramian."""

import math
from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from kfac_artifacts.artifact.blocks.base import Block, Matrix, Shapes, TaskVector, Term
from kfac_artifacts.json_object import JsonObject


@final
@dataclass(frozen=True)
class GramianBlock(Block):
    """A small parameter with its whole Gramian: no approximation.

    Attributes:
        parameter: Name of the parameter; its entries flattened are the rows.
        terms: Names of the matrices ``(G,)`` whose sum is the Gramian; one is usual.
    """

    kind = "gramian"
    roles = ("G",)

    parameter: str
    terms: tuple[Term, ...]

    @property
    @override
    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,)

    @override
    def sizes(self, shapes: Shapes) -> list[tuple[str, int]]:
        return [(name, math.prod(shapes[self.parameter])) for name in self.factors]

    @override
    def gather(self, tau: TaskVector) -> Matrix:
        return tau[self.parameter].reshape(-1, 1)

    @override
    def to_json(self) -> dict[str, Any]:
        terms = self.terms_to_json()
        return {"kind": self.kind, "parameter": self.parameter, "terms": terms}

    @classmethod
    @override
    def from_json(cls, fields: JsonObject) -> "GramianBlock":
        return cls(fields.name("parameter"), cls.terms_from_json(fields))
