"""A power iteration for the nearest sum of Kronecker products, half a sweep a look.

``nearest_fit`` has the mathematics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture import Record, gaussian
from kfac_artifacts.estimate.estimators.nearest_pairs import symmetric, whole
from kfac_artifacts.workers import Workers

TOLERANCE = 0.02
"""A half-sweep that raises ``‖Σ B ⊗ A‖²`` by less than this share of what the smallest
term adds to it is the last one."""
NEGLIGIBLE = 1e-6
"""Share of ``‖Σ B ⊗ A‖²`` that no sweep is made for."""
SPARE = 2
"""Matrices beside those of the terms, if these are several: they turn faster so (Halko
et al. 2011)."""


@dataclass(frozen=True)
class PowerOptions:
    """How the products are sought; see ``Nearest``.

    Attributes:
        terms: How many products.
        shrinkage: Whether the noise of examples is guarded against.
        max_sweeps: Sweeps after which an iteration ends in any case.
    """

    terms: int
    shrinkage: bool
    max_sweeps: int


@dataclass(eq=False)
class _Look:
    """What one look at the examples adds up, on this process.

    Attributes:
        sums: For every term, of its matrix for each example: upper triangles.
        examples: How many examples these are.
    """

    sums: list[Tensor]
    examples: int = 0


class Power:
    """A power iteration over some of the examples, half a sweep at each look.

    At every look one factor of all terms is held, and sums of the other are made: the
    B are held first, then the A found with them, and so on. ``close`` ends a look.

    Args:
        start: A and B to begin with, of any scale.
        options: How it is done.

    Attributes:
        A: Inputs' matrices of the terms, orthonormal; none before the first look.
        B: Outputs' matrices of the terms; orthonormal unless it is done.
        done: Whether nothing is to gain any more.
    """

    def __init__(
        self,
        start: tuple[Tensor, Tensor],
        options: PowerOptions,
    ) -> None:
        self.done = False
        self._terms = options.terms
        self._max_sweeps = options.max_sweeps
        self._looks = 0
        self._captured: list[float] = []  # by the terms together, after every look
        self._begin(start)

    def _begin(self, start: tuple[Tensor, Tensor]) -> None:
        self._start = start
        spare = SPARE if self._terms > 1 else 0
        width = min(self._terms + spare, start[0].numel(), start[1].numel())
        norm = float(start[1].double().norm())  # squares of small numbers vanish
        self.A: list[Tensor] = []
        self.B = [start[1] / norm if norm > 0 else start[1]] * width
        self._look = self._new_look()

    def add(self, record: Record, numbers: Sequence[int]) -> None:
        """Show a batch.

        Args:
            record: The block on N examples.
            numbers: The places of these examples among all.
        """
        sums = self._look.sums
        for term, kept in enumerate(self._held):
            if self._for_inputs:
                weights = record.output_kernel(kept).mean(1)
                weights = weights * self._signs(term, numbers, weights)
                record.add_inputs(sums[term], weights)
            else:
                record.add_outputs(sums[term], record.input_kernel(kept))
        self._look.examples += len(numbers)

    def close(self, workers: Workers) -> None:
        """End a look: set one factor of every term, and turn to the other."""
        means = _mean_over(self._look, workers)
        flat = torch.stack([mean.flatten() for mean in means]).double()
        values = torch.linalg.eigvalsh(flat @ flat.mT).clamp(min=0)[-self._terms :]
        self._captured.append(float(values.sum()))
        for_inputs = self._for_inputs
        self._looks += 1
        if for_inputs:
            self.A = _orthonormal(means)
        else:
            self.done = self._enough(float(values[0]))
            self.B = means if self.done else _orthonormal(means)
        self._look = self._new_look()

    @property
    def sweeps(self) -> float:
        """Looks so far, by two."""
        return self._looks / 2

    @property
    def _for_inputs(self) -> bool:
        """Whether the look that is on is for the A, and the B are held."""
        return self._looks % 2 == 0

    @property
    def _held(self) -> list[Tensor]:
        return self.B if self._for_inputs else self.A

    def _new_look(self) -> _Look:
        like = self._start[0] if self._for_inputs else self._start[1]
        return _Look([torch.zeros_like(like) for _ in self._held])

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

    def _enough(self, smallest: float) -> bool:
        """Whether this half-sweep, or this whole sweep, was hardly worth it."""
        now, known = self._captured[-1], self._captured[:-1]
        if self.sweeps <= 1 and len(self.B) > 1:
            known = []  # mixtures of examples, which capture something else
        tolerance = max(TOLERANCE * smallest, NEGLIGIBLE * now)
        gains = [now - before for before in known[-2:]]
        return self.sweeps >= self._max_sweeps or any(
            gain <= tolerance for gain in gains
        )

    def _signs(self, term: int, numbers: Sequence[int], like: Tensor) -> Tensor:
        """Random signs of the examples: the other terms begin at random mixtures."""
        if term == 0 or self._looks:
            return like.new_ones(len(numbers), 1, 1)
        signs = [[[float(gaussian((term, each), 1).sign())]] for each in numbers]
        return like.new_tensor(signs)


class PowerAlone(Power):
    """A power iteration that begins with the KFAC of its own examples alone.

    That KFAC takes the first look; of ``start`` only the shapes count.
    """

    def __init__(self, start: tuple[Tensor, Tensor], options: PowerOptions) -> None:
        super().__init__(start, options)
        self._own = torch.zeros_like(start[0]), torch.zeros_like(start[1])
        self._begun = False

    @override
    def add(self, record: Record, numbers: Sequence[int]) -> None:
        if self._begun:
            super().add(record, numbers)
            return
        one = torch.eye(record.g.shape[2], dtype=record.g.dtype).to(record.g)
        record.add_inputs(self._own[0], one.expand(len(numbers), -1, -1))
        record.add_outputs(self._own[1])

    @override
    def close(self, workers: Workers) -> None:
        if self._begun:
            super().close(workers)
            return
        A, B = (whole(workers.sum(total)) for total in self._own)
        self._begin((A, B))
        self._begun = True


def _mean_over(look: _Look, workers: Workers) -> list[Tensor]:
    """The means of what all processes have added up."""
    counted = torch.tensor([float(look.examples)], device=look.sums[0].device)
    count = workers.sum(counted).item()
    return [whole(workers.sum(total)) / count for total in look.sums]


def _orthonormal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices of Frobenius norm 1, orthogonal to one another, with the same span."""
    # what is nothing but rounding beside the others becomes zero
    flat = torch.stack([symmetric(m).flatten() for m in matrices], dim=1)
    Q, R = torch.linalg.qr(flat)
    sizes = R.diagonal()
    real = sizes.abs() > 100 * torch.finfo(sizes.dtype).eps * sizes.abs().max()
    return [q.view_as(matrices[0]) for q in (Q * sizes.sign() * real).unbind(1)]
