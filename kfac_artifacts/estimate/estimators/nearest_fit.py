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
- the scale is fitted on examples that were left out: each half of the data tells the
  other's drift c times too large, and what that means for all of them is
  ``2 c / (1 + c)`` (Spearman 1910; Brown 1910), since noise falls with their number.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kfac_artifacts.capture.cotangents import HALVES, gaussian
from kfac_artifacts.capture.record import Record
from kfac_artifacts.estimate.options import Estimator
from kfac_artifacts.factors import Dense, Diagonal, Factor
from kfac_artifacts.workers import Workers

TOLERANCE = 0.02
"""A half-sweep that raises ``‖Σ B ⊗ A‖²`` by less than this share of what the smallest
term adds to it is the last one."""
NEGLIGIBLE = 1e-6
"""Share of ``‖Σ B ⊗ A‖²`` that no sweep is made for."""
SPARE = 2
"""Matrices beside those of the terms, if these are several: they turn faster so (Halko
et al. 2011)."""
SMALLEST_SCALE = 0.02
"""Of one half for the other, so that no block is switched off by chance."""


class _Power:
    """A power iteration over some of the examples, half a sweep at each look.

    Args:
        start: A and B of KFAC.
        options: How it is done.
        alone: Whether to begin with the KFAC of these examples alone, which takes a
            look; of ``start`` only the shapes count then.

    Attributes:
        A: Inputs' matrices of the terms, orthonormal.
        B: Outputs' matrices of the terms.
        sweeps: Looks so far, by two.
        done: Whether nothing is to gain any more.
    """

    def __init__(
        self,
        start: tuple[Tensor, Tensor],
        options: Estimator,
        *,
        alone: bool = False,
    ) -> None:
        self.A: list[Tensor] = []
        self.sweeps = 0.0
        self.done = False
        self._options = options
        spare = SPARE if options.terms > 1 else 0
        self._rank = min(options.terms + spare, start[0].numel(), start[1].numel())
        self._captured: list[float] = []
        self._summing = alone
        self._go(tuple(map(torch.zeros_like, start)) if alone else start)

    def _go(self, start: tuple[Tensor, ...]) -> None:
        """Begin with these A and B, of any scale."""
        self._start = start
        norm = float(start[1].double().norm())  # squares of small numbers vanish
        self.B = [start[1] / norm if norm > 0 else start[1]] * self._rank
        self._begin(inputs=True)

    def add(self, record: Record, ranks: Sequence[int]) -> None:
        """Show a batch."""
        if self._summing:
            one = torch.eye(record.g.shape[2], dtype=record.g.dtype).to(record.g)
            self._start[0].add_(record.pull_in(one.expand(len(ranks), -1, -1)))
            self._start[1].add_(record.pull_out(one.expand(len(ranks), 1, -1, -1)))
            return
        for number in range(self._rank):
            if self._inputs:
                weights = record.output_kernel(self.B[number]).mean(1)
                weights = weights * self._signs(number, ranks, weights)
                self._sums[number] += record.pull_in(weights)
                square = record.square_in
            else:
                weights = record.input_kernel(self.A[number])
                self._sums[number] += record.pull_out(weights)
                square = record.square_out
            if self._drawing:
                self._square += square(weights)
        self._count += len(ranks)

    def close(self, workers: Workers) -> None:
        """End a look: set one factor of every term, and turn to the other."""
        if self._summing:
            self._summing = False
            self._go(tuple(workers.sum(total) for total in self._start))
            return
        counted = torch.tensor([float(self._count)], device=self._square.device)
        count = workers.sum(counted).item()
        square = workers.sum(self._square).item() / count
        means = [workers.sum(total) / count for total in self._sums]
        flat = torch.stack([mean.flatten() for mean in means]).double()
        values = torch.linalg.eigvalsh(flat @ flat.mT).clamp(min=0)
        values = values[-self._options.terms :]
        self._captured.append(float(values.sum()))
        if self._drawing:
            target = self._start[0] if self._inputs else self._start[1]
            means = [_drawn(means[0], square, count, target)]
        self.sweeps += 0.5
        if self._inputs:
            self.A = _orthonormal(means)
        else:
            self.done = self._enough(float(values[0]))
            self.B = means if self.done else _orthonormal(means)
        self._begin(inputs=not self._inputs)

    def inner(self, record: Record) -> Tensor:
        """``Σ_n ⟨M, Σ B M A⟩``, the mean over cotangents: what it tells of others."""
        values = [
            (record.input_kernel(A) * record.output_kernel(B)).sum()
            for A, B in zip(self.A, self.B, strict=True)
        ]
        return torch.stack(values).sum() / record.g.shape[1]

    @property
    def square(self) -> float:
        """``‖Σ B ⊗ A‖²``; the A are orthonormal."""
        return sum(float(B.pow(2).sum()) for B in self.B)

    @property
    def _drawing(self) -> bool:
        return self._options.shrinkage and self._options.terms == 1

    def _begin(self, *, inputs: bool) -> None:
        self._inputs = inputs
        like = self._start[0] if inputs else self._start[1]
        self._sums = [torch.zeros_like(like) for _ in range(self._rank)]
        self._square = like.new_zeros(1, dtype=torch.float64)
        self._count = 0

    def _enough(self, smallest: float) -> bool:
        """Whether this half-sweep, or this whole sweep, was hardly worth it."""
        now, known = self._captured[-1], self._captured[:-1]
        if self.sweeps <= 1 and self._rank > 1:
            known = []  # mixtures of examples, which capture something else
        tolerance = max(TOLERANCE * smallest, NEGLIGIBLE * now)
        gains = [now - before for before in known[-2:]]
        return self.sweeps >= self._options.max_sweeps or any(
            gain <= tolerance for gain in gains
        )

    def _signs(self, number: int, ranks: Sequence[int], like: Tensor) -> Tensor:
        """Random signs of the examples: the other terms begin at random mixtures."""
        if number == 0 or self.sweeps:
            return like.new_ones(len(ranks), 1, 1)
        signs = [[[float(gaussian((number, rank), 1).sign())]] for rank in ranks]
        return like.new_tensor(signs)


class Fit:
    """The terms of one block, and their scale by two halves of the examples.

    Args:
        start: A and B of KFAC.
        options: How the terms are sought.
    """

    def __init__(self, start: tuple[Tensor, Tensor], options: Estimator) -> None:
        self._start = start
        self._terms = options.terms
        self._whole = _Power(start, options)
        halves = [_Power(start, options, alone=True) for _ in range(HALVES)]
        self._halves = halves if options.shrinkage else []
        self._scale = None if options.shrinkage else 1.0
        self._told = start[1].new_zeros(1, dtype=torch.float64)

    @property
    def done(self) -> bool:
        """Whether no further look at the data is needed."""
        return self._whole.done and self._scale is not None

    @property
    def sweeps(self) -> float:
        """How many sweeps the terms took."""
        return self._whole.sweeps

    @property
    def _comparing(self) -> bool:
        return bool(self._halves) and all(half.done for half in self._halves)

    def add(self, record: Record, ranks: Sequence[int]) -> None:
        """Show a batch.

        Args:
            record: The block on N examples.
            ranks: Ranks of the examples; even and odd ones are the halves.
        """
        if not self._whole.done:
            self._whole.add(record, ranks)
        if self._scale is not None:
            return
        comparing = self._comparing
        for parity, half in enumerate(self._halves):
            wanted = 1 - parity if comparing else parity
            places = [i for i, rank in enumerate(ranks) if rank % HALVES == wanted]
            if not places or (half.done and not comparing):
                continue
            part = record.select(places)
            if comparing:
                self._told += half.inner(part)
            else:
                half.add(part, [ranks[i] for i in places])

    def close(self, workers: Workers, examples: int) -> None:
        """End a look.

        Args:
            workers: The processes that add up what they saw.
            examples: Number of examples, of all processes.
        """
        comparing = self._comparing
        if not self._whole.done:
            self._whole.close(workers)
        if comparing and self._scale is None:
            told = workers.sum(self._told).item() / examples
            square = sum(half.square for half in self._halves) / HALVES
            half = told / square if square > 0 else 1.0
            half = min(max(half, SMALLEST_SCALE), 1.0)
            self._scale = 2 * half / (1 + half)
        for power in self._halves:
            if not power.done:
                power.close(workers)

    def terms(self) -> list[tuple[Factor, Factor]]:
        """The pairs ``(A, B)``; the first A has the trace that KFAC gives it."""
        if self._whole.square == 0:
            a, b = self._start  # there is nothing; copies, so that each can be saved
            scales = [1.0] + [0.0] * (self._terms - 1)
            return [(_factor(a * scale), _factor(b * scale)) for scale in scales]
        scale = 1.0 if self._scale is None else self._scale
        A, B = _principal(self._whole.A, [scale * b for b in self._whole.B])
        trace = _trace(self._start[0]) / _trace(A[0])
        A[0], B[0] = A[0] * trace, B[0] / trace
        pairs = list(zip(A, B, strict=True))[: self._terms]
        return [(_factor(_symmetric(a)), _factor(_symmetric(b))) for a, b in pairs]


def _drawn(mean: Tensor, square: float, count: float, target: Tensor) -> Tensor:
    """Draw a mean of ``count`` matrices towards a target of any scale."""
    # The target's weight is Var(mean) / ‖mean - target‖², with the variance from
    # ``square``, the mean of the squared norms (Ledoit & Wolf 2004).
    norm = float(target.pow(2).sum())
    target = target * (float((mean * target).sum()) / norm if norm > 0 else 0.0)
    variance = (square - float(mean.pow(2).sum())) / max(count - 1, 1)
    distance = float((mean - target).pow(2).sum())
    weight = min(max(variance / distance, 0.0), 1.0) if distance > 0 else 0.0
    return mean + weight * (target - mean)


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
