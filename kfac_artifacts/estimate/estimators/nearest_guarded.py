"""The nearest Kronecker product of a block, guarded against the noise of few examples.

It is one sweep from the factors of KFAC (``nearest_fit``), in which every sum is made
of the even and of the odd examples apart. Their noise is independent (``cotangents``),
so what one half tells of the other is what all of them tell of data not seen: with
means ``X_e`` and ``X_o`` of the halves, ``⟨X_e, X_o⟩`` estimates ``‖E X‖²`` without
bias, where ``‖X‖²`` is too large by the variance of X. Two noises are taken out so:

- that of B: ``B = α B_n + β B_K`` with the mean ``B_n = E[M A Mᵀ]`` and the factor
  ``B_K`` of KFAC, whose shape has little noise. The weights, not negative, are those of
  the smallest ``‖α B_n + β B_K - E X‖²``, whose inner products with ``E X`` are told by
  the halves (Ledoit & Wolf 2004, with KFAC as the target; stacking: Wolpert 1992).
- that of A, which the same examples then see again: ``E[M A Mᵀ]`` is too large by
  ``‖A‖² / ⟨A_e, A_o⟩``. With noise N in the rearranged Gramian R, singular vectors u, v
  and ``A = (R + N)ᵀ u`` it has the term ``N Nᵀ u`` along u, which is as large beside
  ``R Rᵀ u`` as the variance of A beside the square of its mean; so the scale is
  multiplied by ``⟨A_e, A_o⟩ / ‖A‖²``.

More sweeps would fit the same noise again: on held-out data nothing is gained by them.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from kfac_artifacts.capture import HALVES, Record
from kfac_artifacts.estimate.estimators.nearest_pairs import factor_pairs, whole
from kfac_artifacts.factors import Factor
from kfac_artifacts.workers import Workers

SMALLEST_SCALE = 0.02
"""Of one half for the other, so that no block is switched off by chance."""
CACHED = 2**16
"""Numbers that are turned to float64 at once, so that they stay in the cache."""


class _Means:
    """Means over the even examples, and over the odd ones.

    Attributes:
        sums: Of both, their upper triangles.
    """

    def __init__(self, like: Tensor) -> None:
        self.sums = [torch.zeros_like(like) for _ in range(HALVES)]

    def close(self, workers: Workers, examples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give the means of the even, the odd and all examples, of all processes."""
        even, odd = (whole(workers.sum(total)) for total in self.sums)
        odds = examples // HALVES
        return even / (examples - odds), odd / odds, (even + odd) / examples


@final
class GuardedFit:
    """The pair of one block.

    Args:
        start: A and B of KFAC.

    Attributes:
        A: Its A, of norm 1.
        B: Its B.
        done: Whether no further look at the data is needed.
    """

    sweeps = 1.0

    def __init__(self, start: tuple[Tensor, Tensor]) -> None:
        self.done = False
        self.A, self.B = start[0], _normalised(start[1])
        self._start = start
        self._for_inputs = True
        self._means = _Means(start[0])
        self._even_target = torch.zeros_like(start[1])
        self._scale = 1.0

    def add(self, record: Record, numbers: Sequence[int]) -> None:
        """Show a batch.

        Args:
            record: The block on N examples.
            numbers: Places of these examples among all; even and odd ones are halves.
        """
        if self._for_inputs:
            weights = record.output_kernel(self.B).mean(1)
        else:
            weights = record.input_kernel(self.A)
        for parity in range(HALVES):
            places = [i for i, each in enumerate(numbers) if each % HALVES == parity]
            if places:
                self._add_half(record.select(places), weights[places], parity)

    def _add_half(self, record: Record, weights: Tensor, parity: int) -> None:
        if self._for_inputs:
            record.add_inputs(self._means.sums[parity], weights)
        else:
            record.add_outputs(self._means.sums[parity], weights)
            if parity == 0:  # what the odd ones have is the rest of KFAC's B
                record.add_outputs(self._even_target)

    def close(self, workers: Workers, examples: int) -> None:
        """End a look: that for A, or that for B.

        Args:
            workers: The processes that add up what they saw.
            examples: Number of examples, of all processes.
        """
        even, odd, mean = self._means.close(workers, examples)
        if self._for_inputs:
            told, square = _inner(even, odd), _inner(mean, mean)
            self._scale = _bounded(told / square) if square > 0 else 1.0
            self.A, self._for_inputs = _normalised(mean), False
            self._means = _Means(self._start[1])
            return
        target, odds = self._start[1], examples // HALVES
        evens = examples - odds
        target_even = whole(workers.sum(self._even_target)) / evens
        target_odd = (examples * target - evens * target_even) / odds
        crossed = _inner(target_even, odd) + _inner(target_odd, even)
        both = _inner(even, odd), crossed / HALVES
        alpha, beta = _weights(mean, target, both)
        self.B = self._scale * (alpha * mean + beta * target)
        self.done = True

    def terms(self) -> list[tuple[Factor, Factor]]:
        """The pair ``(A, B)``; A has the trace that KFAC gives it."""
        return factor_pairs(self._start, [self.A], [self.B], 1)


def _weights(
    mean: Tensor, target: Tensor, told: tuple[float, float]
) -> tuple[float, float]:
    """The α and β of the smallest ``‖α mean + β target - truth‖²``, not negative.

    Args:
        mean: The mean of the examples.
        target: What it is drawn to.
        told: Inner products of both with the truth.

    Returns:
        The weights; both 0 only if the mean is 0.
    """
    mm, mt, tt = _inner(mean, mean), _inner(mean, target), _inner(target, target)
    if mm == 0 or tt == 0:
        return 0.0, 0.0
    det = mm * tt - mt * mt
    alpha, beta = told[0] * tt - told[1] * mt, told[1] * mm - told[0] * mt
    if det > 0 and alpha >= 0 and beta >= 0 and alpha + beta > 0:
        return alpha / det, beta / det
    gains = max(told[0], 0.0) ** 2 / mm, max(told[1], 0.0) ** 2 / tt
    if gains[1] > gains[0]:
        return 0.0, told[1] / tt
    return _bounded(told[0] / mm), 0.0


def _bounded(share: float) -> float:
    return min(max(share, SMALLEST_SCALE), 1.0)


def _inner(x: Tensor, y: Tensor) -> float:
    """Add up products in float64, where those of small numbers do not vanish."""
    parts = zip(x.flatten().split(CACHED), y.flatten().split(CACHED), strict=True)
    dots = [torch.dot(a.double(), b.double()) for a, b in parts]
    return float(torch.stack(dots).sum())


def _normalised(matrix: Tensor) -> Tensor:
    norm = _inner(matrix, matrix) ** 0.5
    return matrix / norm if norm > 0 else matrix
