"""Blocks: how the curvature of one module acts on its part of a task vector."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact.block_info import (
    BlockInfo,
    GramianInfo,
    KroneckerInfo,
    Layout,
)
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Factor


class Block(BlockInfo):
    """The curvature of one module, with what can be computed from it."""

    @abstractmethod
    def with_factors(self, names: Sequence[str]) -> "Block":
        """The same block, its factors called otherwise, in the order of the terms."""

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


def as_matrix(weight: Tensor, layout: Layout) -> Tensor:
    """View a weight as ``W``, of shape ``[d_out, d_in]``."""
    if layout is Layout.ROWS:
        return weight.reshape(weight.shape[0], -1)
    return weight.reshape(-1, weight.shape[-1]).mT


@final
@dataclass(frozen=True)
class KroneckerBlock(KroneckerInfo, Block):
    """A linear map ``z = W a (+ b)``: ``Σ_r B_r ⊗ A_r`` (TAK, Eq. 6)."""

    @override
    def with_factors(self, names: Sequence[str]) -> "KroneckerBlock":
        pairs = zip(names[::2], names[1::2], strict=True)
        return replace(self, terms=tuple(pairs))

    @override
    def gather(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        own = [tau[name] for name in self.parameters]
        if self.part is not None:
            own = [stack[self.part] for stack in own]
        W = as_matrix(own[0], self.layout)
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
class GramianBlock(GramianInfo, Block):
    """A small parameter with its whole Gramian: no approximation."""

    @override
    def with_factors(self, names: Sequence[str]) -> "GramianBlock":
        return replace(self, terms=tuple(names))

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


BLOCKS: dict[str, type[KroneckerBlock | GramianBlock]] = {
    block.kind: block for block in (KroneckerBlock, GramianBlock)
}


def block_of(info: BlockInfo) -> Block:
    """The block that a manifest describes."""
    return BLOCKS[info.kind](**vars(info))
