"""TIES: trim, elect signs, merge what agrees (Yadav et al., NeurIPS 2023)."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.task_vector.merging.base import MergeMethod, Merging
from kfac_artifacts.task_vector.vector import TaskVector


@final
@dataclass(frozen=True)
class Ties(MergeMethod):
    """The mean of the large changes that agree with the sign of their sum.

    Of every task vector the ``keep`` share of the numbers is kept that are largest in
    magnitude, over all parameters together; equal ones are kept together. The sign of
    a number is that of the sum of what was kept; where that is zero, the sign that more
    numbers of the model have. Merged is the mean of what was kept and has that sign.

    Attributes:
        keep: Share of the numbers that are kept of every task vector, counting those of
            all parameters that one of the task vectors moved.
    """

    name = "ties"

    keep: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise SettingsError(
                f"keep must be above 0 and at most 1, found {self.keep}"
            )

    @override
    def __call__(
        self, vectors: Sequence[TaskVector], alphas: Sequence[float]
    ) -> Merging:
        return _TiesMerging(vectors, alphas, self)


class _TiesMerging(Merging):
    def __init__(
        self, vectors: Sequence[TaskVector], alphas: Sequence[float], method: Ties
    ) -> None:
        super().__init__(vectors, alphas)
        self.method = method

    @override
    def change(self, name: str) -> Tensor:
        kept = self._kept(name)
        sign = kept.sum(0).sign()
        sign = torch.where(sign == 0, self._majority, sign)
        agrees = kept.sign() == sign
        count = (agrees & (kept != 0)).sum(0).clamp(min=1)
        return (kept * agrees).sum(0) / count

    @override
    def describe(self) -> dict[str, Json]:
        return self.method.describe()

    def _kept(self, name: str) -> Tensor:
        """What is left of a parameter's changes, ``[T, ...]``, all else zero."""
        terms = zip(self.all_terms(name), self._least, strict=True)
        return torch.stack(
            [
                torch.where(term.abs().double() >= least, term, 0.0)
                for term, least in terms
            ]
        )

    @functools.cached_property
    def _least(self) -> list[float]:
        """The smallest magnitude that is kept, of every task vector."""
        shapes = {n: t.shape for v in self.vectors for n, t in v.tensors.items()}
        count = sum(shape.numel() for shape in shapes.values())
        wanted = max(1, int(count * self.method.keep))

        def own(number: int) -> Iterable[Tensor]:
            vector, alpha = self.vectors[number], self.alphas[number]
            return (alpha * tensor for tensor in vector.tensors.values())

        return [
            kth_largest(functools.partial(own, i), wanted)
            for i in range(len(self.vectors))
        ]

    @functools.cached_property
    def _majority(self) -> float:
        """The sign that more of the merged numbers have; 0 if neither."""
        signs = (self._kept(name).sum(0).sign() for name in self.names)
        total = sum(float(sign.sum(dtype=torch.float64)) for sign in signs)
        return float((total > 0) - (total < 0))


DIGIT = 16
"""Bits that are looked at at once."""
PIECE = 1 << 22
"""Numbers that are looked at at once, so that a large table takes little memory."""


def kth_largest(tensors: Callable[[], Iterable[Tensor]], k: int) -> float:
    """Find the k-th largest magnitude of many tensors, holding one of them.

    The bits of numbers that are not negative are in the order of the numbers, so that
    four counts of 16 bits each find it exactly.

    Args:
        tensors: Gives the tensors anew.
        k: Which one, from 1.

    Returns:
        The magnitude; 0 if there are fewer numbers.
    """
    found = 0
    for shift in (48, 32, 16, 0):
        counts = torch.zeros(1 << DIGIT, dtype=torch.int64)
        for piece in _pieces(tensors()):
            bits = piece.cpu().double().abs().view(torch.int64)
            own = bits[(bits >> shift >> DIGIT) == found] >> shift & (1 << DIGIT) - 1
            counts += own.bincount(minlength=1 << DIGIT)
        at_least = counts.flip(0).cumsum(0).flip(0)
        digit = max(int((at_least >= k).sum()) - 1, 0)
        k -= int(at_least[digit] - counts[digit])
        found = found << DIGIT | digit
    return float(torch.tensor(found).view(torch.float64))


def _pieces(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        yield from tensor.detach().flatten().split(PIECE)
