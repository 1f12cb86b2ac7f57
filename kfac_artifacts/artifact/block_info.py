"""Blocks as a manifest describes them: what they cover, and by which factors.

Nothing here needs a tensor, so that a header is read without importing torch;
``artifact/blocks.py`` adds how blocks act.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from typing_extensions import override


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


class BlockInfo(ABC):
    """Which parameters the curvature of one module covers, and by which factors.

    Factors are referred to by name, because modules with the same input share one.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the covered parameters, weight first."""

    @property
    @abstractmethod
    def factors(self) -> tuple[str, ...]:
        """Names of the factors, in the order of the terms."""

    @abstractmethod
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        """Each factor with the size it must have, from the parameters' shapes."""


@dataclass(frozen=True)
class KroneckerInfo(BlockInfo):
    """A linear map ``z = W a (+ b)``: ``Σ_r B_r ⊗ A_r`` (TAK, Eq. 6).

    Attributes:
        weight: Name of the weight.
        bias: Name of the bias, the last column of ``W``, or None.
        layout: How the weight becomes ``W``.
        terms: Names of ``(A, B)`` for each term; one is the ordinary case.
        part: Of a stacked weight, and bias, the slice ``weight[part]`` alone, as of
            one expert of many; None for the whole.
    """

    kind: ClassVar[str] = "kronecker"

    weight: str
    bias: str | None
    layout: Layout
    terms: tuple[tuple[str, str], ...]
    part: int | None = None

    @property
    @override
    def parameters(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    @override
    def factors(self) -> tuple[str, ...]:
        return tuple(name for term in self.terms for name in term)

    @override
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        shape = shapes[self.weight]
        d_out, d_in = self.layout.dims(shape if self.part is None else shape[1:])
        d_in += self.bias is not None
        return [size for a, b in self.terms for size in ((a, d_in), (b, d_out))]


@dataclass(frozen=True)
class GramianInfo(BlockInfo):
    """A small parameter with its whole Gramian: no approximation.

    Attributes:
        parameter: Name of the parameter; its entries flattened are the rows.
        terms: Names of the matrices whose sum is the Gramian; one is usual.
    """

    kind: ClassVar[str] = "gramian"

    parameter: str
    terms: tuple[str, ...]

    @property
    @override
    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,)

    @property
    @override
    def factors(self) -> tuple[str, ...]:
        return self.terms

    @override
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        return [(name, math.prod(shapes[self.parameter])) for name in self.terms]
