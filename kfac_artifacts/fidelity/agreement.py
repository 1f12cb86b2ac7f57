"""How well predicted drifts agree with true ones: in size, and in order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Protocol, runtime_checkable


@runtime_checkable
class Pair(Protocol):
    """A prediction and what came true."""

    @property
    def predicted(self) -> float:
        """What was predicted."""

    @property
    def true(self) -> float:
        """What came true."""


@dataclass(frozen=True)
class Agreement:
    """Predictions beside the truth.

    Attributes:
        count: How many pairs there are.
        ratio: Geometric mean of predicted / true; None if no pair is positive.
        spread: Geometric standard deviation of it: a factor, 1 for no spread.
        rank_correlation: Spearman's; None of fewer than two pairs, or if all
            predictions are the same, or all that came true.
        not_positive: How many pairs have no ratio, because one is not positive.
    """

    count: int
    ratio: float | None
    spread: float | None
    rank_correlation: float | None
    not_positive: int


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """Compare predictions with the truth.

    Args:
        pairs: Any number of them.

    Returns:
        Their ratio and their rank correlation.
    """
    logs = [
        math.log(pair.predicted / pair.true)
        for pair in pairs
        if pair.predicted > 0 and pair.true > 0
    ]
    return Agreement(
        count=len(pairs),
        ratio=math.exp(fmean(logs)) if logs else None,
        spread=math.exp(pstdev(logs)) if logs else None,
        rank_correlation=_spearman(pairs),
        not_positive=len(pairs) - len(logs),
    )


def _spearman(pairs: Sequence[Pair]) -> float | None:
    from scipy.stats import spearmanr  # noqa: PLC0415 - it takes a second

    predicted, true = [p.predicted for p in pairs], [p.true for p in pairs]
    if len(set(predicted)) < 2 or len(set(true)) < 2:
        return None
    return float(spearmanr(predicted, true).statistic)
