"""Blocks of coordinates, and nothing between two of them."""

import re
from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from kfac_artifacts.compress.forms.base import Factor, Form, Original, whole


@final
@dataclass(frozen=True)
class Blocks(Form):
    """``count`` blocks of coordinates, in their order or grouped by correlation.

    Coordinates of an attention head follow each other: as many blocks as there are
    heads keep every head whole.
    """

    names: ClassVar[str] = "block-K, block-K-correlated"

    count: int
    correlated: bool = False

    @classmethod
    @override
    def parse(cls, name: str) -> "Blocks | None":
        found = re.fullmatch(r"block-(\d+)(-correlated)?", name)
        if not found:
            return None
        return cls(whole(found[1], "the number of blocks"), bool(found[2]))

    @property
    @override
    def name(self) -> str:
        return f"block-{self.count}" + ("-correlated" if self.correlated else "")

    @override
    def apply(self, original: Original) -> Factor:
        from kfac_artifacts.compress.grouping import by_correlation, even_sizes
        from kfac_artifacts.factors import BlockDiagonal

        matrix = original.matrix
        sizes = even_sizes(len(matrix), self.count, bias=original.bias)
        order = by_correlation(matrix, sizes) if self.correlated else None
        if order is not None and bool((order.diff() == 1).all()):
            order = None  # it is the order that there was
        return BlockDiagonal.of_dense(matrix, sizes, order)
