"""Quadratic forms of changes of low rank, ``W = s L R``, of which W is never formed.

Of a Kronecker product it is ``s² ⟨Lᵀ B L, R A Rᵀ⟩``, with the gradients
``2 s² B L (R A Rᵀ)`` and ``2 s² (Lᵀ B L) R A``: all of them thin products. In the
eigenbases of EK-FAC, and on a diagonal, every entry of W has a curvature of its own;
there W is formed in those bases, of a few blocks at a time, and left again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kfac_artifacts.tuning.stacks import Stack, joined


@final
class LowRankChange(NamedTuple):
    """``W = s L R`` of one block.

    Attributes:
        left: L, ``[d_out, k]``.
        right: R, ``[k, d_in]``, or ``[k, d_in + 1]`` if the block's bias moves.
        scale: s.
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0


@final
class Form(NamedTuple):
    """What m blocks make of their ``W = L R``, M being their product with W.

    Attributes:
        value: ``⟨W, M⟩`` of each.
        left: ``M Rᵀ``, half of the gradient by L.
        right: ``Lᵀ M``, half of the gradient by R.
    """

    value: Float[Tensor, " m"]
    left: Float[Tensor, "m o k"]
    right: Float[Tensor, "m k i"]


@final
@dataclass(frozen=True, eq=False)
class Product:
    """``B W A``."""

    A: Stack
    B: Stack

    def form(self, L: Float[Tensor, "m o k"], R: Float[Tensor, "m k i"]) -> Form:
        """Evaluate it at ``L R``."""
        outputs, inputs = self.B.matmul(L), self.A.matmul(R.mT)
        of_left, of_right = L.mT @ outputs, R @ inputs
        value = (of_left * of_right).sum((1, 2))
        return Form(value, outputs @ of_right, of_left @ inputs.mT)


@final
@dataclass(frozen=True, eq=False)
class Entries:
    """``Uᵀ (S ∘ U W Vᵀ) V``, or ``S ∘ W`` without U and V."""

    S: Float[Tensor, "m p q"]
    bases: tuple[Tensor, Tensor] | None

    def form(self, L: Float[Tensor, "m o k"], R: Float[Tensor, "m k i"]) -> Form:
        """Evaluate it at ``L R``."""
        if self.bases is None:
            return self._form(L, R)
        U, V = self.bases
        value, left, right = self._form(U @ L, R @ V.mT)
        return Form(value, U.mT @ left, right @ V)

    def _form(self, L: Float[Tensor, "m p k"], R: Float[Tensor, "m k q"]) -> Form:
        W = L @ R
        M = self.S * W
        return Form((M * W).sum((1, 2)), M @ R.mT, L.mT @ M)


Term: TypeAlias = Product | Entries


@final
class Group:
    """Blocks of one shape whose curvature has one structure.

    Args:
        names: Names of the blocks.
        terms: Their curvature.
        multipliers: What each counts for.
        padded: Whether W has a column for a bias, which stands still.
    """

    def __init__(
        self,
        names: Sequence[str],
        terms: Sequence[Term],
        multipliers: Sequence[float],
        *,
        padded: bool,
    ) -> None:
        self.names, self.terms, self.padded = tuple(names), tuple(terms), padded
        self._multipliers = tuple(multipliers)
        self._weights: tuple[tuple[float, ...], Tensor] | None = None

    def form(self, changes: Mapping[str, LowRankChange], dtype: torch.dtype) -> Form:
        """Their part of the penalty, weighed, and half of its gradients."""
        own = [changes[name] for name in self.names]
        L = joined([change.left.detach().to(dtype) for change in own])
        R = joined([change.right.detach().to(dtype) for change in own])
        if self.padded:
            R = pad(R, (0, 1))
        parts = zip(*(term.form(L, R) for term in self.terms), strict=True)
        value, left, right = (sum(part[1:], part[0]) for part in parts)
        weights = self._weighed([change.scale for change in own], L)
        if self.padded:
            right = right[..., :-1]
        spread = weights[:, None, None]
        return Form(value * weights, left * spread, right * spread)

    def _weighed(self, scales: Sequence[float], like: Tensor) -> Tensor:
        """``c s²`` of every block; made again only where a scale is another one."""
        key = tuple(scales)
        if self._weights is None or self._weights[0] != key:
            pairs = zip(self._multipliers, scales, strict=True)
            self._weights = key, like.new_tensor([c * s * s for c, s in pairs])
        return self._weights[1]
