"""The nearest Kronecker product of a block, by power iteration over records.

The pair that minimises ``‖G - B ⊗ A‖_F`` with ``G = E[vec M vec Mᵀ]`` is the leading
singular pair of G's rearrangement (Van Loan & Pitsianis 1993), which is never formed:

    A ← E[Mᵀ B M] / ‖B‖²        B ← E[M A Mᵀ] / ‖A‖²

Each half-sweep is the best choice of one factor for the other, so from the factors of
KFAC on the error never grows (KPSVD: Koroko et al. 2022; Morwani et al. 2024). With r
terms the same is done to a subspace of r matrices: the best sum of r products.

Few examples make both factors learn the same noise. So, unless told otherwise,

- each factor is drawn towards that of KFAC, whose shape has little noise, as far as its
  own spread over the examples says (Ledoit & Wolf 2004, with KFAC as the target);
- the scale is fitted on examples that were not used: halves of the data predict each
  other, and what that tells of the whole is ``2 c / (1 + c)`` (Spearman 1910; Brown
  1910), since noise falls with the number of examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kfac_artifacts.estimate.cotangents import gaussian
from kfac_artifacts.estimate.options import Estimator
from kfac_artifacts.estimate.record import Record
from kfac_artifacts.estimate.workers import Workers
from kfac_artifacts.factors import Dense, Diagonal, Factor

TOLERANCE = 0.01
"""A sweep that raises ``‖B ⊗ A‖²`` by less than this share of it is the last one."""
SMALLEST_SCALE = 0.1
"""Of one half for the other, so that no block is switched off by chance."""


@dataclass(eq=False)
class Power:
    """A power iteration over some of the examples.

    Attributes:
        start: A and B of KFAC.
        options: How it is done.
        A: Inputs' matrices of the terms, of Frobenius norm 1 and orthogonal.
        B: Outputs' matrices of the terms.
        sweeps: How many are done.
        done: Whether nothing is to gain any more.
    """

    start: tuple[Tensor, Tensor]
    options: Estimator
    A: list[Tensor] = field(default_factory=list)
    B: list[Tensor] = field(default_factory=list)
    sweeps: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        self.B = [self.start[1]] * self.options.terms
        self._inputs = True
        self._captured = 0.0
        self._begin()

    def _begin(self) -> None:
        like = self.start[0] if self._inputs else self.start[1]
        self._sums = [torch.zeros_like(like) for _ in range(self.options.terms)]
        self._squares = like.new_zeros(self.options.terms, dtype=torch.float64)
        self._count = 0

    def add(self, record: Record, ranks: Sequence[int]) -> None:
        """Add a batch to the half-sweep.

        Args:
            record: The block on N examples.
            ranks: Ranks of the examples.
        """
        for number in range(self.options.terms):
            if self._inputs:
                weights = record.output_kernel(self.B[number]).mean(1)
                weights = weights * self._signs(number, ranks, weights)
                self._sums[number] += record.pull_in(weights)
                square = record.square_in if self.options.shrinkage else None
            else:
                weights = record.input_kernel(self.A[number])
                self._sums[number] += record.pull_out(weights)
                square = record.square_out if self.options.shrinkage else None
            if square is not None:
                self._squares[number] += square(weights)
        self._count += len(ranks)

    def close(self, workers: Workers) -> None:
        """End the half-sweep: set one factor from the sums, and turn to the other."""
        counted = torch.tensor([float(self._count)], device=self._squares.device)
        count = workers.sum(counted).item()
        squares = (workers.sum(self._squares) / count).tolist()
        means = [workers.sum(total) / count for total in self._sums]
        if self.options.shrinkage:
            target = self.start[0] if self._inputs else self.start[1]
            means = [
                _shrunk(mean, square, count, target if number == 0 else 0 * target)
                for number, (mean, square) in enumerate(
                    zip(means, squares, strict=True)
                )
            ]
        if self._inputs:
            self.A = _orthonormal(means)
        else:
            self._end_sweep(means)
        self._inputs = not self._inputs
        self._begin()

    def inner(self, record: Record) -> Tensor:
        """``Σ_n ⟨M, B M A⟩``, the mean over cotangents: what it tells of others."""
        values = [
            (record.input_kernel(A) * record.output_kernel(B)).sum()
            for A, B in zip(self.A, self.B, strict=True)
        ]
        return torch.stack(values).sum() / record.g.shape[1]

    @property
    def square(self) -> Tensor:
        """``‖Σ_r B_r ⊗ A_r‖²``; the A are orthonormal."""
        return torch.stack([B.pow(2).sum() for B in self.B]).sum()

    def _signs(self, number: int, ranks: Sequence[int], like: Tensor) -> Tensor:
        """Random signs of the examples: the other terms begin at random mixtures."""
        if number == 0 or self.sweeps:
            return like.new_ones(len(ranks), 1, 1)
        signs = [[[float(gaussian((number, rank), 1).sign())]] for rank in ranks]
        return like.new_tensor(signs)

    def _end_sweep(self, means: list[Tensor]) -> None:
        self.B, before = means, self._captured
        self._captured = float(self.square)
        self.sweeps += 1
        gain = self._captured - before
        self.done = (
            gain <= TOLERANCE * self._captured or self.sweeps >= self.options.max_sweeps
        )


class Fit:
    """The terms of one block: a power iteration, and the scale by two halves.

    Args:
        start: A and B of KFAC.
        options: How it is done.
    """

    def __init__(self, start: tuple[Tensor, Tensor], options: Estimator) -> None:
        self.start = start
        self.whole = Power(start, options)
        halves = [Power(start, options), Power(start, options)]
        self._halves = halves if options.shrinkage else []
        self._told = torch.zeros_like(start[1][:1, 0])
        self._count = 0
        self.scale: float | None = None if options.shrinkage else 1.0

    @property
    def done(self) -> bool:
        """Whether no further look at the data is needed."""
        return self.scale is not None and self.whole.done

    @property
    def _swept(self) -> bool:
        return all(power.done for power in (self.whole, *self._halves))

    def add(self, record: Record, ranks: Sequence[int]) -> None:
        """Add a batch to what is being summed up."""
        swept = self._swept
        if not self.whole.done:
            self.whole.add(record, ranks)
        for half, power in enumerate(self._halves):
            own = [i for i, rank in enumerate(ranks) if rank % 2 == half]
            other = [i for i in range(len(ranks)) if i not in own]
            if swept and other:
                self._told += power.inner(record.select(other))
                self._count += len(other)
            elif not power.done and own:
                power.add(record.select(own), [ranks[i] for i in own])

    def close(self, workers: Workers) -> None:
        """End a look at the data."""
        if self._swept and self._halves:
            self._set_scale(workers)
            return
        for power in (self.whole, *self._halves):
            if not power.done:
                power.close(workers)

    def terms(self) -> list[tuple[Factor, Factor]]:
        """The pairs ``(A, B)``; the first A has the trace that KFAC gives it."""
        if float(self.whole.square) == 0:
            return [(_factor(self.start[0]), Dense(self.start[1]))]  # there is nothing
        scale = 1.0 if self.scale is None else self.scale
        A, B = _principal(self.whole.A, [scale * B for B in self.whole.B])
        trace = _trace(self.start[0]) / _trace(A[0])
        A[0], B[0] = A[0] * trace, B[0] / trace
        pairs = zip(A, B, strict=True)
        return [(_factor(_symmetric(a)), Dense(_symmetric(b))) for a, b in pairs]

    def _set_scale(self, workers: Workers) -> None:
        count = workers.sum(self.start[1].new_tensor([float(self._count)])).item()
        told = workers.sum(self._told.clone()).item()
        square = sum(float(half.square) for half in self._halves)
        # each example was explained by the half that it is not in
        half = 2 * told / count / square if square > 0 else 1.0
        half = min(max(half, SMALLEST_SCALE), 1.0)
        self.scale = 2 * half / (1 + half)


def _shrunk(mean: Tensor, square: float, count: float, target: Tensor) -> Tensor:
    """Draw a mean of ``count`` matrices towards a target of any scale."""
    # The target's weight is Var(mean) / ‖mean - target‖², with the variance from
    # ``square``, the mean of the squared norms (Ledoit & Wolf 2004).
    norm = float(target.pow(2).sum())
    if norm > 0:
        target = target * (float((mean * target).sum()) / norm)
    variance = (square - float(mean.pow(2).sum())) / max(count - 1, 1)
    distance = float((mean - target).pow(2).sum())
    weight = min(max(variance / distance, 0.0), 1.0) if distance > 0 else 0.0
    return mean + weight * (target - mean)


def _orthonormal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices of Frobenius norm 1, orthogonal to one another, with the same span."""
    flat = torch.stack([matrix.flatten() for matrix in matrices], dim=1)
    Q, R = torch.linalg.qr(flat)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0)
    return [q.view_as(matrices[0]) for q in (Q * signs).unbind(1)]


def _principal(
    A: Sequence[Tensor], B: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The same sum of products with orthogonal B as well, the largest first."""
    flat = torch.stack([b.flatten() for b in B])
    _, rotation = torch.linalg.eigh((flat @ flat.mT).double())
    rotation = rotation.flip(1).to(flat.dtype)
    turned_A = torch.einsum("ri,i...->r...", rotation.mT.to(A[0]), torch.stack([*A]))
    turned_B = torch.einsum("ri,i...->r...", rotation.mT, torch.stack([*B]))
    signs = [1.0 if _trace(b) >= 0 else -1.0 for b in turned_B]
    return (
        [sign * a for sign, a in zip(signs, turned_A, strict=True)],
        [sign * b for sign, b in zip(signs, turned_B, strict=True)],
    )


def _trace(matrix: Tensor) -> Tensor:
    return matrix.trace() if matrix.dim() == 2 else matrix.sum()


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2 if matrix.dim() == 2 else matrix


def _factor(matrix: Tensor) -> Factor:
    return Dense(matrix) if matrix.dim() == 2 else Diagonal(matrix)
