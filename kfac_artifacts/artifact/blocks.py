"""Blocks: which parameters one module's curvature covers, and how it acts on them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Factor


class Layout(StrEnum):
    """How a parameter of any rank becomes the matrix ``W`` of a linear map."""

    ROWS = "rows"
    """``weight.reshape(shape[0], -1)``: Linear, and Conv2d on unfolded patches."""

    COLUMNS = "columns"
    """``weight.reshape(-1, shape[-1])`` transposed: ``Conv1D``, tables of vectors."""

    def matrix(self, weight: Tensor) -> Tensor:
        """View ``weight`` as ``W``, of shape ``[d_out, d_in]``."""
        if self is Layout.ROWS:
            return weight.reshape(weight.shape[0], -1)
        return weight.reshape(-1, weight.shape[-1]).mT

    def dims(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """``(d_out, d_in)`` of a parameter of this shape, without a bias."""
        d_out = shape[0] if self is Layout.ROWS else shape[-1]
        return d_out, math.prod(shape) // d_out


class Block(ABC):
    """The curvature of one module: which parameters it covers, and by which factors.

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
    def with_factors(self, names: Sequence[str]) -> "Block":
        """The same block, its factors called otherwise, in the order of the terms."""

    @abstractmethod
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        """Each factor with the size it must have, from the parameters' shapes."""

    @abstractmethod
    def gather(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        """Arrange the block's part of a task vector as one matrix ``W``."""

    @abstractmethod
    def product(
        self, W: Float[Tensor, "d_out d_in"], factors: Mapping[str, Factor]
    ) -> Float[Tensor, "d_out d_in"]:
        """Apply the block as it is stored: ``M = Σ_r B_r W A_r``."""

    @abstractmethod
    def scale(self, tasks: int) -> float:
        """What turns the stored block of ``tasks`` tasks into their weighted mean."""


def terms_of(block: Block) -> list[tuple[str, ...]]:
    """The terms of a block: ``(A, B)`` of Kronecker products, ``(G,)`` of Gramians."""
    size = 2 if block.kind == KroneckerBlock.kind else 1
    names = block.factors
    return [names[i : i + size] for i in range(0, len(names), size)]


@final
@dataclass(frozen=True)
class KroneckerBlock(Block):
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
    def with_factors(self, names: Sequence[str]) -> "KroneckerBlock":
        pairs = zip(names[::2], names[1::2], strict=True)
        return replace(self, terms=tuple(pairs))

    @override
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        shape = shapes[self.weight]
        d_out, d_in = self.layout.dims(shape if self.part is None else shape[1:])
        d_in += self.bias is not None
        return [size for a, b in self.terms for size in ((a, d_in), (b, d_out))]

    @override
    def gather(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        own = [tau[name] for name in self.parameters]
        if self.part is not None:
            own = [stack[self.part] for stack in own]
        W = self.layout.matrix(own[0])
        if self.bias is None:
            return W
        return torch.cat([W, own[1][:, None]], dim=1)

    @override
    def product(
        self, W: Float[Tensor, "d_out d_in"], factors: Mapping[str, Factor]
    ) -> Float[Tensor, "d_out d_in"]:
        total = torch.zeros_like(W)
        for a, b in self.terms:
            A, B = factors[a], factors[b]
            if W.shape != (B.dim, A.dim):
                raise FactorError(
                    f"{self.weight}: W has shape {list(W.shape)}, but its factors need "
                    f"[{B.dim}, {A.dim}]; are they of another model?"
                )
            total += A.matmul(B.matmul(W).mT).mT
        return total

    @override
    def scale(self, tasks: int) -> float:
        return 1.0 / tasks


@final
@dataclass(frozen=True)
class GramianBlock(Block):
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
    def with_factors(self, names: Sequence[str]) -> "GramianBlock":
        return replace(self, terms=tuple(names))

    @override
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        return [(name, math.prod(shapes[self.parameter])) for name in self.terms]

    @override
    def gather(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        return tau[self.parameter].reshape(-1, 1)

    @override
    def product(
        self, W: Float[Tensor, "d_out d_in"], factors: Mapping[str, Factor]
    ) -> Float[Tensor, "d_out d_in"]:
        total = torch.zeros_like(W)
        for name in self.terms:
            if W.shape != (factors[name].dim, 1):
                raise FactorError(
                    f"{self.parameter} has {W.shape[0]} entries, but its Gramian is of "
                    f"size {factors[name].dim}; is it of another model?"
                )
            total += factors[name].matmul(W)
        return total

    @override
    def scale(self, tasks: int) -> float:
        return 1.0
