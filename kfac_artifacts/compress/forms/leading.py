"""The leading eigenvectors, with the diagonal of the rest or without."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from typing_extensions import override

from kfac_artifacts.compress.forms.base import (
    NUMBER,
    Factor,
    Form,
    Original,
    percent,
    share,
    whole,
)

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = object


@final
@dataclass(frozen=True)
class Leading(Form):
    """The leading eigenvectors: a number, a share of all, or a share of the trace.

    Attributes:
        amount: How many, or what share.
        of: ``rank``, ``share`` or ``trace``.
        remainder: Whether the diagonal of the rest is kept, so that no direction goes
            free; the paper's truncated SVD does not.
    """

    names: ClassVar[str] = (
        "low-rank-R, low-rank-P%, low-rank-trace-P%, svd-R, svd-P%, svd-trace-P%"
    )

    amount: float
    of: str
    remainder: bool

    @classmethod
    @override
    def parse(cls, name: str) -> "Leading | None":
        found = re.fullmatch(rf"(low-rank|svd)-(?:(\d+)|(trace-)?{NUMBER}%)", name)
        if not found:
            return None
        kind, rank, trace, part = found.groups()
        if rank is not None:
            return cls(float(whole(rank, "the rank")), "rank", kind == "low-rank")
        of = "share" if trace is None else "trace"
        amount = share(part, "the rank" if trace is None else "the trace")
        return cls(amount, of, kind == "low-rank")

    @property
    @override
    def name(self) -> str:
        kind = "low-rank" if self.remainder else "svd"
        if self.of == "rank":
            return f"{kind}-{self.amount:.0f}"
        trace = "-trace" if self.of == "trace" else ""
        return f"{kind}{trace}-{percent(self.amount)}%"

    @override
    def apply(self, original: Original) -> Factor:
        from kfac_artifacts.factors import LowRank

        by_rank = self.of == "rank"
        found = original.leading(int(self.amount)) if by_rank else original.eigen
        values, vectors = found
        worth = values.abs() if original.worth is None else original.worth()
        rank, definite = self._rank(values, worth), original.definite
        if original.worth is None:
            kept = LowRank.of_eigen(values, vectors, rank, definite=definite)
        else:
            first = foremost(worth, rank)
            few = values[first]
            few = few.clamp(min=0) if definite else few
            kept = LowRank(vectors.mT[first].contiguous(), few)
        if not self.remainder:
            return kept
        return kept.completed(original.diagonal, definite=definite)

    def _rank(self, values: Tensor, worth: Tensor) -> int:
        """How many of these eigenvalues are kept, those of most worth first."""
        if self.of == "rank":
            return min(int(self.amount), len(values))
        if self.of == "share":
            return max(1, round(self.amount * len(values)))
        sizes = values.abs().double()[worth.argsort(descending=True)]
        kept = sizes.cumsum(0)
        short = kept < self.amount * sizes.sum() * (1 - 1e-9)
        return min(int(short.sum()) + 1, len(values))


def foremost(worth: Tensor, count: int) -> Tensor:
    """Places of what is worth most, in the order that they have."""
    return worth.argsort(descending=True)[:count].sort().values
