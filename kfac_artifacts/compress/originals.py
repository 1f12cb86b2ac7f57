"""Factors that are to be compressed, with what has to be known of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.factors import Factor, LowRank, eigh, floats

LARGE, LANCZOS = 1024, 24
"""From this size on a few eigenvectors are found alone, if they are one in so many."""
ORTHOGONAL = 1e-4
"""How far the found vectors may be from orthonormal."""


@dataclass(frozen=True, eq=False)
class Original:
    """A factor to be compressed.

    Attributes:
        factor: The factor, in any structure.
        bias: Whether the last coordinate is the constant 1 of a bias.
        definite: Whether it stands for a semidefinite matrix by itself; terms of a sum
            of Kronecker products need not.
        basis: Whether other factors are given in its vectors, so that these stay.
        worth: Then tells how much is lost with every vector; else its eigenvalue does.
    """

    factor: Factor
    bias: bool
    definite: bool
    basis: bool = False
    worth: Callable[[], Float[Tensor, " r"]] | None = None

    @cached_property
    def matrix(self) -> Float[Tensor, "d d"]:
        """All entries, in float32 or better."""
        dense = self.factor.to_dense().cpu()
        return dense if dense.dtype == torch.float64 else dense.float()

    @property
    def diagonal(self) -> Float[Tensor, " d"]:
        """Its diagonal alone, in float32 or better."""
        found = self.factor.diagonal().cpu()
        return found if found.dtype == torch.float64 else found.float()

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues, ascending, and eigenvectors as columns; or its own vectors."""
        if self.basis and isinstance(self.factor, LowRank):
            return self.factor.values.cpu(), floats(self.factor.vectors).mT.cpu()
        return eigh(self.matrix)

    def leading(self, rank: int) -> tuple[Tensor, Tensor]:
        """Eigenvalues, ascending, and eigenvectors; a few of a large matrix by Lanczos.

        Args:
            rank: How many of the largest in magnitude there must be at least.

        Returns:
            All of them, or as many as asked for.
        """
        if self.basis or LANCZOS * rank > self.dim or self.dim < LARGE:
            return self.eigen
        return lanczos(self.matrix, rank) or self.eigen

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.factor.dim


def originals(artifact: Artifact) -> Iterator[tuple[str, Original]]:
    """Give the factors of an artifact with what compressing has to know of them.

    Args:
        artifact: The artifact.

    Yields:
        Every factor once, in the order of the blocks.
    """
    seen: set[str] = set()
    definite = {
        name
        for block in artifact.blocks.values()
        if not block.is_sum
        for name in block.factors  # whatever other blocks share it
    }
    bases = {name for block in artifact.blocks.values() for name in block.bases}
    for block in artifact.blocks.values():
        for name in block.factors:
            if name not in seen:
                seen.add(name)
                yield (
                    name,
                    Original(
                        artifact.factors[name],
                        bias=name in block.biased,
                        definite=name in definite,
                        basis=name in bases,
                    ),
                )


def lanczos(matrix: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Find some eigenvectors (Lehoucq, Sorensen & Yang 1998, ARPACK).

    Args:
        matrix: A symmetric matrix.
        count: How many, of the largest eigenvalues in magnitude.

    Returns:
        Eigenvalues, ascending, and eigenvectors as columns; None if it does not
        converge, as where there are not as many eigenvalues that are not zero.
    """
    from scipy.sparse.linalg import (  # noqa: PLC0415 - slow to import
        ArpackError,
        eigsh,
    )

    start = torch.ones(len(matrix), dtype=matrix.dtype).numpy()  # the same in every run
    try:
        values, vectors = eigsh(matrix.numpy(), count, v0=start, which="LM")
    except ArpackError:
        return None
    found = torch.from_numpy(values), torch.from_numpy(vectors)
    # where eigenvalues are zero, vectors may be anything
    gram = found[1].mT @ found[1] - torch.eye(count, dtype=matrix.dtype)
    return found if float(gram.abs().max()) < ORTHOGONAL else None
