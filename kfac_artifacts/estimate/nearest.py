"""The nearest Kronecker product of a block, by power iteration over records.

The pair that minimises ``‖G - B ⊗ A‖_F`` with ``G = E[vec M vec Mᵀ]`` is the leading
singular pair of G's rearrangement (Van Loan & Pitsianis 1993), which is never formed:

    A ← E[Mᵀ B M] / ‖B‖²        B ← E[M A Mᵀ] / ‖A‖²

Each half-sweep is the best choice of one factor for the other, so from the factors of
KFAC on the error never grows (KPSVD: Koroko et al. 2022; Morwani et al. 2024). With r
terms the same is done to a subspace of r matrices: the best sum of r products of
symmetric matrices.

Few examples make both factors learn the same noise. So, unless told otherwise,

- the factors of a single term are drawn towards those of KFAC, whose shape has little
  noise, as far as their own spread over the examples says (Ledoit & Wolf 2004, with
  KFAC as the target);
- the scale is the one that fits examples that were left out, to first order: what an
  example adds to A and to B is taken out where it meets itself (a jackknife).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.estimate.cotangents import gaussian
from kfac_artifacts.estimate.options import Estimator
from kfac_artifacts.estimate.record import Record
from kfac_artifacts.estimate.workers import Workers
from kfac_artifacts.factors import Dense, Diagonal, Factor

TOLERANCE = 0.02
"""A half-sweep that raises ``‖Σ B ⊗ A‖²`` by less than this share of what the smallest
term adds to it is the last one."""
NEGLIGIBLE = 1e-6
"""Share of ``‖Σ B ⊗ A‖²`` that no sweep is made for."""
SPARE = 2
"""Matrices beside those of the terms, if these are several: they turn faster so (Halko
et al. 2011)."""
SMALLEST_SCALE = 0.1
"""Of what fits the examples themselves, so that no block is switched off by chance."""


@dataclass(frozen=True)
class _Half:
    """What half a sweep gives.

    Attributes:
        matrices: One factor of every term.
        captured: ``‖Σ B ⊗ A‖²`` before anything is drawn anywhere.
        smallest: What the smallest term adds to that.
        fit: How far they fit the examples: ``Σ ⟨drawn, mean⟩ / Σ ‖drawn‖²``.
        own: Share of that in which examples are compared with themselves.
    """

    matrices: list[Tensor]
    captured: float
    smallest: float
    fit: float
    own: float


class Fit:
    """The terms of one block, sought in looks at the data of half a sweep each.

    Args:
        start: A and B of KFAC.
        options: How it is done.

    Attributes:
        sweeps: Looks so far, by two.
        done: Whether nothing is to gain any more.
    """

    def __init__(self, start: tuple[Tensor, Tensor], options: Estimator) -> None:
        self.sweeps = 0.0
        self.done = False
        self._start = start
        self._options = options
        self._A: list[Tensor] = []
        spare = SPARE if options.terms > 1 else 0
        self._rank = min(options.terms + spare, start[0].numel(), start[1].numel())
        self._B = [start[1] / max(float(start[1].norm()), 1e-300)] * self._rank
        self._last: _Half | None = None
        self._scale = 1.0
        self._begin(inputs=True)

    def add(self, record: Record, ranks: Sequence[int]) -> None:
        """Show a batch.

        Args:
            record: The block on N examples.
            ranks: Ranks of the examples.
        """
        for number in range(self._rank):
            if self._inputs:
                weights = record.output_kernel(self._B[number]).mean(1)
                weights = weights * self._signs(number, ranks, weights)
                self._sums[number] += record.pull_in(weights)
                square = record.square_in
            else:
                weights = record.input_kernel(self._A[number])
                self._sums[number] += record.pull_out(weights)
                square = record.square_out
            if self._options.shrinkage:
                self._squares[number] += square(weights)
        self._count += len(ranks)

    def close(self, workers: Workers) -> None:
        """End a look: set one factor of every term, and turn to the other."""
        half = self._half(workers)
        self.sweeps += 0.5
        if self._inputs:
            self._A = _orthonormal(half.matrices)
        else:
            self._B = half.matrices
            if self._options.shrinkage and self._last is not None:
                kept = max(1 - half.own - self._last.own, SMALLEST_SCALE)
                self._scale = half.fit * kept
            before = self._last.captured if self._last is not None else 0.0
            mixed = self.sweeps <= 1 and self._rank > 1
            gain = half.captured - (0.0 if mixed else before)
            enough = gain <= max(TOLERANCE * half.smallest, NEGLIGIBLE * half.captured)
            self.done = enough or self.sweeps >= self._options.max_sweeps
            if not self.done:
                self._B = _orthonormal(half.matrices)
        self._last = half
        self._begin(inputs=not self._inputs)

    def terms(self) -> list[tuple[Factor, Factor]]:
        """The pairs ``(A, B)``; the first A has the trace that KFAC gives it."""
        if not any(bool(b.any()) for b in self._B):
            start = self._start  # there is nothing
            return [(_factor(start[0]), _factor(start[1]))] * self._options.terms
        A, B = _principal(self._A, [self._scale * b for b in self._B])
        trace = _trace(self._start[0]) / _trace(A[0])
        A[0], B[0] = A[0] * trace, B[0] / trace
        pairs = list(zip(A, B, strict=True))[: self._options.terms]
        return [(_factor(_symmetric(a)), _factor(_symmetric(b))) for a, b in pairs]

    def _begin(self, *, inputs: bool) -> None:
        self._inputs = inputs
        like = self._start[0] if inputs else self._start[1]
        self._sums = [torch.zeros_like(like) for _ in range(self._rank)]
        self._squares = like.new_zeros(self._rank, dtype=torch.float64)
        self._count = 0

    def _half(self, workers: Workers) -> _Half:
        counted = torch.tensor([float(self._count)], device=self._squares.device)
        count = workers.sum(counted).item()
        square = float(workers.sum(self._squares).sum()) / count
        means = [workers.sum(total) / count for total in self._sums]
        flat = torch.stack([mean.flatten() for mean in means]).double()
        values = torch.linalg.eigvalsh(flat @ flat.mT).clamp(min=0)
        values = values[-self._options.terms :]
        captured, smallest = float(values.sum()), float(values[0])
        if not self._options.shrinkage or captured == 0:
            return _Half(means, captured, smallest, 1.0, 0.0)
        weight = 0.0
        if self._options.terms == 1:
            target = self._start[0] if self._inputs else self._start[1]
            means, weight = _drawn(means[0], square, count, target)
        drawn = torch.stack([mean.flatten() for mean in means]).double()
        inner = float((drawn * flat).sum())
        own = (1 - weight) * square / count / inner
        return _Half(means, captured, smallest, inner / float(drawn.pow(2).sum()), own)

    def _signs(self, number: int, ranks: Sequence[int], like: Tensor) -> Tensor:
        """Random signs of the examples: the other terms begin at random mixtures."""
        if number == 0 or self.sweeps:
            return like.new_ones(len(ranks), 1, 1)
        signs = [[[float(gaussian((number, rank), 1).sign())]] for rank in ranks]
        return like.new_tensor(signs)


def _drawn(
    mean: Tensor, square: float, count: float, target: Tensor
) -> tuple[list[Tensor], float]:
    """Draw a mean of ``count`` matrices towards a target of any scale, and how far."""
    # The target's weight is Var(mean) / ‖mean - target‖², with the variance from
    # ``square``, the mean of the squared norms (Ledoit & Wolf 2004).
    norm = float(target.pow(2).sum())
    target = target * (float((mean * target).sum()) / norm if norm > 0 else 0.0)
    variance = (square - float(mean.pow(2).sum())) / max(count - 1, 1)
    distance = float((mean - target).pow(2).sum())
    weight = min(max(variance / distance, 0.0), 1.0) if distance > 0 else 0.0
    return [mean + weight * (target - mean)], weight


def _orthonormal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices of Frobenius norm 1, orthogonal to one another, with the same span."""
    # what is nothing but rounding beside the others becomes zero
    flat = torch.stack([_symmetric(m).flatten() for m in matrices], dim=1)
    Q, R = torch.linalg.qr(flat)
    sizes = R.diagonal()
    real = sizes.abs() > 100 * torch.finfo(sizes.dtype).eps * sizes.abs().max()
    return [q.view_as(matrices[0]) for q in (Q * sizes.sign() * real).unbind(1)]


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
