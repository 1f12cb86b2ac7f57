"""Eigendecompositions of single factors, each made once and only when needed."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.factors import Diagonal, Factor, eigh


@dataclass(frozen=True, eq=False)
class Eigen:
    """``Q diag(values) Qᵀ``; ``vectors`` is Q, or None where Q is the identity."""

    values: Float[Tensor, " d"]
    vectors: Float[Tensor, "d d"] | None

    def into(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Turn columns into the eigenbasis: ``Qᵀ x``."""
        return x if self.vectors is None else self.vectors.mT @ x

    def back(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Turn columns back from the eigenbasis: ``Q x``."""
        return x if self.vectors is None else self.vectors @ x

    def squared_back(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """``(Q ∘ Q) x``, which carries eigenvalues to diagonals."""
        return x if self.vectors is None else self.vectors.square() @ x


class Decomposed:
    """A factor together with its eigendecomposition.

    A diagonal factor is its own eigendecomposition: that of a table of V rows needs V
    numbers. Eigenvalues of any other one that are zero up to rounding are made zero,
    so that no rounding error is ever inverted.
    """

    def __init__(self, factor: Factor) -> None:
        self.factor = factor

    @cached_property
    def eigen(self) -> Eigen:
        """The eigendecomposition, in the factor's own number type."""
        if isinstance(self.factor, Diagonal):
            return Eigen(self.factor.diagonal(), None)
        values, vectors = eigh(self.factor.to_dense())
        noise = len(values) ** 0.5 * torch.finfo(values.dtype).eps * values.abs().max()
        return Eigen(values.where(values.abs() > noise, 0.0), vectors)
