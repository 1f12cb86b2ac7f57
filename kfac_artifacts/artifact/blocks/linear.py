"""Blocks of linear maps: how a weight and a bias are one matrix ``W``."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, final

from typing_extensions import override

from kfac_artifacts.artifact.blocks.base import Block, Matrix, Shapes, TaskVector, Term
from kfac_artifacts.json_object import JsonObject


class Layout(StrEnum):
    """How a parameter of any rank becomes the matrix ``W`` of a linear map."""

    ROWS = "rows"
    """``weight.reshape(shape[0], -1)``: Linear, and Conv2d on unfolded patches."""

    COLUMNS = "columns"
    """``weight.reshape(-1, shape[-1])`` transposed: ``Conv1D``, tables of vectors."""

    def dims(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """``(d_out, d_in)`` of a parameter of this shape, without a bias."""
        d_out = shape[0] if self is Layout.ROWS else shape[-1]
        return d_out, math.prod(shape) // d_out

    def as_matrix(self, weight: Matrix) -> Matrix:
        """View a weight as ``W``, of shape ``[d_out, d_in]``."""
        if self is Layout.ROWS:
            return weight.reshape(weight.shape[0], -1)
        return weight.reshape(-1, weight.shape[-1]).mT


@dataclass(frozen=True)
class LinearBlock(Block):
    """A linear map ``z = W a (+ b)``, whose curvature acts on ``vec W``.

    Attributes:
        weight: Name of the weight.
        bias: Name of the bias, the last column of ``W``, or None.
        layout: How the weight becomes ``W``.
        terms: Names of the factors of each term; one is the ordinary case.
        part: Of a stacked weight, and bias, the slice ``weight[part]`` alone, as of
            one expert of many; None for the whole.
        positions: Of how many positions A is the mean, over all tasks, so that
            ``positions · A`` is the sum of ``a aᵀ``; None if that is not known.
        constant: Whether inputs have a last entry 1 although there is no bias, so that
            the last column of A is their mean; ``W`` has no column for it.
    """

    takes_constant: ClassVar[bool] = False
    """Whether blocks of this kind may have such a constant."""

    weight: str
    bias: str | None
    layout: Layout
    terms: tuple[Term, ...]
    part: int | None = None
    positions: int | None = None
    constant: bool = False

    @property
    @override
    def parameters(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    @override
    def covers(self) -> Hashable:
        return self.parameters, self.part, self.layout

    def dims(self, shapes: Shapes) -> tuple[int, int]:
        """``(d_out, d_in)`` of ``W``, from the parameters' shapes."""
        d_out, d_in = self.layout.dims(self._own(shapes[self.weight]))
        return d_out, d_in + (self.bias is not None)

    def input_dim(self, shapes: Shapes) -> int:
        """Number of rows of A, with that of a constant."""
        return self.dims(shapes)[1] + self.constant

    @override
    def misfit(self, shapes: Shapes) -> str | None:
        weight = self._own(shapes[self.weight])
        if len(weight) < 2:
            return "the weight, or its part, must have two axes"
        if self.bias is not None and self.constant:
            return "constant is for a block without a bias, which has one"
        d_out, _ = self.layout.dims(weight)
        if self.bias is not None and self._own(shapes[self.bias]) != (d_out,):
            return f"the bias, or its part, must have shape [{d_out}]"
        return None

    @override
    def gather(self, tau: TaskVector) -> Matrix:
        import torch

        own = [tau[name] for name in self.parameters]
        if self.part is not None:
            own = [stack[self.part] for stack in own]
        W = self.layout.as_matrix(own[0])
        return W if self.bias is None else torch.cat([W, own[1][:, None]], dim=1)

    @property
    @override
    def biased(self) -> tuple[str, ...]:
        return self.inputs if self.bias is not None or self.constant else ()

    @override
    def to_json(self) -> dict[str, Any]:
        constant = True if self.constant else None
        optional = {
            "part": self.part,
            "positions": self.positions,
            "constant": constant,
        }
        return {
            "kind": self.kind,
            "weight": self.weight,
            "bias": self.bias,
            "layout": self.layout.value,
            "terms": self.terms_to_json(),
        } | {key: value for key, value in optional.items() if value is not None}

    @classmethod
    @override
    def from_json(cls, fields: JsonObject) -> "LinearBlock":
        weight, bias = fields.name("weight"), fields.maybe_name("bias")
        layout = fields.take("layout", str)
        fields.require(layout in list(Layout), f"layout {layout!r} is not known")
        terms, part = cls.terms_from_json(fields), fields.optional_count("part")
        positions = fields.optional_count("positions")
        constant = fields.optional("constant", bool) if cls.takes_constant else None
        fields.require(constant in {None, True}, "constant is true, or absent")
        kept = constant is True
        return cls(weight, bias, Layout(layout), terms, part, positions, kept)

    @final
    def with_one_term(self, fields: JsonObject) -> "LinearBlock":
        """Refuse several terms, for kinds that have one; else give the block itself."""
        fields.require(len(self.terms) == 1, "terms must be one")
        return self

    @override
    def with_positions(self, positions: int | None) -> "Block":
        return self._with(positions=positions)

    def _own(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of its part of a parameter."""
        return shape if self.part is None else shape[1:]
