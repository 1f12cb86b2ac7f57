"""Block-diagonal factor: coordinates in groups, nothing kept between two groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors.base import Factor, weighted
from kfac_artifacts.factors.dense import extremes, lift
from kfac_artifacts.factors.fields import (
    Configuration,
)
from kfac_artifacts.factors.int8 import Int8Matrix, Numbers, floats


@final
@dataclass(frozen=True, eq=False, repr=False)
class BlockDiagonal(Factor):
    """``M[p[i], p[j]] = D[i, j]`` with D block-diagonal and p a permutation.

    Blocks of equal size that follow each other are one *run*, a stack ``[k, s, s]``, so
    that a product is one batched product per run: ``Σ s²`` operations per column.

    Attributes:
        runs: The blocks, in order.
        permutation: p, or None where coordinates stay in their order.

    Example:
        >>> matrix = torch.tensor([[4.0, 1.0, 5.0], [1.0, 3.0, 6.0], [5.0, 6.0, 2.0]])
        >>> factor = BlockDiagonal.of_dense(matrix, [2, 1])
        >>> factor.to_dense()
        tensor([[4., 1., 0.],
                [1., 3., 0.],
                [0., 0., 2.]])
        >>> factor.configuration
        {'blocks': [[1, 2], [1, 1]], 'permuted': False}
    """

    name: ClassVar[str] = "block_diagonal"

    runs: tuple[Float[Tensor, "_ _ _"] | Int8Matrix, ...]
    permutation: Int32[Tensor, " d"] | None = None

    @classmethod
    def of_dense(
        cls,
        matrix: Float[Tensor, "d d"],
        sizes: Sequence[int],
        permutation: Tensor | None = None,
    ) -> "BlockDiagonal":
        """Keep blocks of a matrix.

        Args:
            matrix: The matrix.
            sizes: Sizes of the blocks, which add up to d.
            permutation: Coordinate of the matrix at every position of the blocks.

        Returns:
            The blocks; runs are as long as the order of the sizes allows.

        Raises:
            FactorError: If the sizes do not add up.
        """
        if sum(sizes) != len(matrix) or min(sizes) < 1:
            raise FactorError(f"blocks of {list(sizes)} do not make up {len(matrix)}")
        if permutation is not None:
            permutation = permutation.to(torch.int32)
            matrix = matrix[permutation][:, permutation]
        runs, start = [], 0
        for size, group in groupby(sizes):
            stack = []
            for _ in group:
                stack.append(matrix[start : start + size, start : start + size])
                start += size
            runs.append(torch.stack(stack))
        return cls(tuple(runs), permutation)

    @classmethod
    @override
    def from_fields(
        cls, fields: Mapping[str, Numbers], configuration: Configuration
    ) -> "BlockDiagonal":
        rest = dict(fields)
        permutation: Any = rest.pop("permutation", None)
        if permutation is not None:
            _check_permutation(permutation)
        return cls(tuple(rest.values()), permutation)  # type: ignore[arg-type]

    @property
    @override
    def configuration(self) -> dict[str, Any]:
        blocks = [[*run.shape[:2]] for run in map(_shaped, self.runs)]
        return {"blocks": blocks, "permuted": self.permutation is not None}

    @property
    @override
    def dim(self) -> int:
        return sum(run.shape[0] * run.shape[1] for run in map(_shaped, self.runs))

    @override
    def fields(self) -> dict[str, Numbers]:
        found: dict[str, Numbers] = {
            f"blocks_{i}": run for i, run in enumerate(self.runs)
        }
        if self.permutation is not None:
            found["permutation"] = self.permutation
        return found

    @override
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        x = x if self.permutation is None else x[self.permutation]
        found, start = [], 0
        for run in map(floats, self.runs):
            count, size = run.shape[:2]
            part = x[start : start + count * size].view(count, size, x.shape[1])
            found.append((run @ part).flatten(0, 1))
            start += count * size
        return self._restored(torch.cat(found))

    @override
    def to_dense(self) -> Float[Tensor, "d d"]:
        blocks = [block for run in map(floats, self.runs) for block in run]
        matrix = self._restored(torch.block_diag(*blocks))
        return matrix if self.permutation is None else self._restored(matrix.mT).mT

    @override
    def diagonal(self) -> Float[Tensor, " d"]:
        found = [
            run.diagonal
            if isinstance(run, Int8Matrix)
            else run.diagonal(dim1=-2, dim2=-1)
            for run in self.runs
        ]
        return self._restored(torch.cat([part.flatten() for part in found]))

    @override
    def weighted_sum(
        self, others: Sequence[Factor], weights: Sequence[float]
    ) -> tuple[Factor, float] | None:
        same = [o for o in others if isinstance(o, BlockDiagonal) and self.like(o)]
        if len(same) < len(others):
            return None
        stacks = zip(self.runs, *(other.runs for other in same), strict=True)
        runs = tuple(weighted(map(floats, stack), weights) for stack in stacks)
        return BlockDiagonal(runs, self.permutation), 0.0

    @override
    def restructure(self, other: Factor) -> Factor:
        if self.like(other):
            return other
        blocks = self.configuration["blocks"]
        sizes = [size for count, size in blocks for _ in range(count)]
        return BlockDiagonal.of_dense(other.to_dense(), sizes, self.permutation)

    @override
    def _inner(self, other: Factor) -> Tensor | None:
        if not isinstance(other, BlockDiagonal) or not self.like(other):
            return None
        pairs = zip(map(floats, self.runs), map(floats, other.runs), strict=True)
        return torch.stack([(a.double() * b.double()).sum() for a, b in pairs]).sum()

    @override
    def eigenvalue_range(self) -> tuple[float, float]:
        ends = [extremes(run) for run in self.runs]
        return min(low for low, _ in ends), max(high for _, high in ends)

    @override
    def add_diagonal(self, amount: float) -> "BlockDiagonal":
        runs = tuple(lift(run, amount) for run in self.runs)
        return BlockDiagonal(runs, self.permutation)

    def like(self, other: Factor) -> bool:
        """Whether another factor has the same blocks of the same coordinates."""
        if not isinstance(other, BlockDiagonal):
            return False
        if self.configuration != other.configuration:
            return False
        ours, theirs = self.permutation, other.permutation
        return ours is None or theirs is None or torch.equal(ours, theirs)

    def _restored(self, rows: Tensor) -> Tensor:
        """Bring rows from the order of the blocks into that of the matrix."""
        if self.permutation is None:
            return rows
        found = torch.empty_like(rows)
        found[self.permutation] = rows
        return found


def _shaped(run: Tensor | Int8Matrix) -> Tensor:
    return run if isinstance(run, Tensor) else run.codes


def _check_permutation(permutation: Tensor) -> None:
    dim = len(permutation)
    within = bool(((permutation >= 0) & (permutation < dim)).all())
    if not within or not bool((permutation.bincount(minlength=dim) == 1).all()):
        raise FactorError(f"the permutation does not have each of 0 … {dim - 1} once")
