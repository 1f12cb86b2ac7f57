"""Methods that merge every matrix by itself, and what matrices they take apart into."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.task_vector.merging.base import MergeMethod, Merging
from kfac_artifacts.task_vector.vector import TaskVector


@dataclass(frozen=True)
class MatrixMethod(MergeMethod):
    """A method that merges every matrix by itself; all else gets the mean.

    A matrix is a parameter of two axes, tables of tokens and positions included. Norms,
    biases, convolutions and stacks of experts are none. Numbers are float64 while they
    are worked on.
    """

    def takes(self, shape: Sequence[int], tasks: int) -> bool:
        """Whether it merges a parameter of this shape otherwise than by the mean."""
        return len(shape) == 2

    @abstractmethod
    def merged(
        self, name: str, matrices: Sequence[Float[Tensor, "m n"]]
    ) -> Float[Tensor, "m n"]:
        """Merge a matrix.

        Args:
            name: Of the parameter.
            matrices: Its change by every task vector, zero by one that did not move it.

        Returns:
            The merged change.
        """

    @override
    def __call__(
        self, vectors: Sequence[TaskVector], alphas: Sequence[float]
    ) -> Merging:
        return _MatrixMerging(vectors, alphas, self)


class _MatrixMerging(Merging):
    def __init__(
        self,
        vectors: Sequence[TaskVector],
        alphas: Sequence[float],
        method: MatrixMethod,
    ) -> None:
        super().__init__(vectors, alphas)
        self.method = method

    @property
    @override
    def averaged(self) -> tuple[str, ...]:
        shapes = {n: t.shape for v in self.vectors for n, t in v.tensors.items()}
        tasks = len(self.vectors)
        return tuple(n for n in self.names if not self.method.takes(shapes[n], tasks))

    @override
    def change(self, name: str) -> Tensor:
        if not self.method.takes(self.terms(name)[0].shape, len(self.vectors)):
            return self.mean(name)
        return self.method.merged(name, self.wide_terms(name)).to(self.dtype(name))

    @override
    def describe(self) -> dict[str, Json]:
        return {**self.method.describe(), "averaged": [*self.averaged]}


@dataclass(frozen=True)
class Spectrum:
    """Singular values with their vectors, in columns: ``Σ_k s_k u_k v_kᵀ``."""

    U: Float[Tensor, "m k"]
    S: Float[Tensor, " k"]
    V: Float[Tensor, "n k"]

    @property
    def matrix(self) -> Float[Tensor, "m n"]:
        """The sum."""
        return (self.U * self.S) @ self.V.mT


ROUNDING = 2.0**-22
"""Singular values below this share of a Frobenius norm may be rounding of float32."""


def spectrum(
    matrix: Float[Tensor, "m n"],
    most: int | None = None,
    *,
    of: Float[Tensor, "m n"] | None = None,
) -> Spectrum:
    """Decompose a matrix, without what is zero up to rounding.

    The vectors of zero singular values are arbitrary, and so must not enter a result.
    Changes of low rank, as of LoRA, have many of them.

    Args:
        matrix: Any matrix.
        most: How many singular values at most, the largest first; None for all.
        of: What the matrix was taken out of, if that is larger.

    Returns:
        The singular values above ``ROUNDING``.
    """
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    zero = ROUNDING * torch.linalg.matrix_norm(matrix if of is None else of)
    kept = int((zero < S).sum())
    kept = kept if most is None else min(kept, most)
    return Spectrum(U[:, :kept], S[:kept], Vh[:kept].mT)


def joined(parts: Sequence[Spectrum]) -> Spectrum:
    """Put the singular values and vectors of several matrices side by side."""
    return Spectrum(
        torch.cat([part.U for part in parts], 1),
        torch.cat([part.S for part in parts]),
        torch.cat([part.V for part in parts], 1),
    )


def orthonormal(columns: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """Give the nearest matrix with orthonormal columns (Procrustes).

    Args:
        columns: Any matrix.

    Returns:
        ``U Vᵀ`` of its singular vectors. Where columns depend on one another it is a
        partial isometry: nothing arbitrary is put in their place.
    """
    found = spectrum(columns)
    return found.U @ found.V.mT
