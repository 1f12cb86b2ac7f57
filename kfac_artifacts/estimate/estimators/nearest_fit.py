"""The nearest Kronecker product of a block, by power iteration over records.

The pair that minimises ``‖G - B ⊗ A‖_F`` with ``G = E[vec M vec Mᵀ]`` is the leading
singular pair of G's rearrangement (Van Loan & Pitsianis 1993), which is never formed:

    A ← E[Mᵀ B M] / ‖B‖²        B ← E[M A Mᵀ] / ‖A‖²

Each half-sweep is the best choice of one factor for the other, so from the factors of
KFAC on the error never grows (KPSVD: Koroko et al. 2022; Morwani et al. 2024). With r
terms the same is done to a subspace of r matrices: the best sum of r products of
symmetric matrices.

Few examples make both factors learn the same noise. Unless told otherwise, a single
term is guarded against it by ``nearest_guarded``. Of several the scale is fitted on
examples that were left out: each half of the data tells the other's drift c times too
large, and what that means for all of them is ``2 c / (1 + c)`` (Spearman 1910; Brown
1910), since noise falls with their number.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kfac_artifacts.capture import HALVES, Record
from kfac_artifacts.estimate.estimators.nearest_pairs import factor_pairs
from kfac_artifacts.estimate.estimators.nearest_power import (
    Power,
    PowerAlone,
    PowerOptions,
)
from kfac_artifacts.factors import Factor
from kfac_artifacts.workers import Workers

SMALLEST_SCALE = 0.02
"""Of one half for the other, so that no block is switched off by chance."""


class Fit:
    """The terms of one block, and their scale by two halves of the examples.

    Args:
        start: A and B of KFAC.
        options: How the terms are sought; with shrinkage there is an iteration over
            each half of the examples beside that over all.
    """

    def __init__(self, start: tuple[Tensor, Tensor], options: PowerOptions) -> None:
        self._start = start
        self._terms = options.terms
        self._whole = Power(start, options)
        count = HALVES if options.shrinkage else 0
        self._halves = [PowerAlone(start, options) for _ in range(count)]
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

    def add(self, record: Record, numbers: Sequence[int]) -> None:
        """Show a batch.

        Args:
            record: The block on N examples.
            numbers: Places of these examples among all; even and odd ones are halves.
        """
        if not self._whole.done:
            self._whole.add(record, numbers)
        if self._scale is not None:
            return
        comparing = self._comparing
        for parity, half in enumerate(self._halves):
            wanted = 1 - parity if comparing else parity
            places = [i for i, each in enumerate(numbers) if each % HALVES == wanted]
            if not places or (half.done and not comparing):
                continue
            part = record.select(places)
            if comparing:
                self._told += half.inner(part)
            else:
                half.add(part, [numbers[i] for i in places])

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
        scale = 1.0 if self._scale is None else self._scale
        B = [scale * b for b in self._whole.B]
        return factor_pairs(self._start, self._whole.A, B, self._terms)
