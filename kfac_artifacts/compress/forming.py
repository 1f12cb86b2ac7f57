"""Bringing a factor into the structure that a form asks for."""

from functools import singledispatch

from torch import Tensor

from kfac_artifacts.compress.grouping import by_correlation, even_sizes
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.compress.transforms import (
    Blocks,
    Form,
    Keep,
    Leading,
    OnlyDiagonal,
    Prune,
)
from kfac_artifacts.factors import BlockDiagonal, Diagonal, Factor, LowRank, Pruned


@singledispatch
def apply(form: Form, original: Original) -> Factor:
    """Compress a factor that is not diagonal.

    Args:
        form: What of it is kept.
        original: The factor.

    Returns:
        The factor in its new structure.

    Raises:
        TypeError: If the form is none of those that there are.
    """
    raise TypeError(f"nothing is known of {type(form).__name__}")


@apply.register
def _kept(_: Keep, original: Original) -> Factor:
    return original.factor


@apply.register
def _blocks(form: Blocks, original: Original) -> Factor:
    matrix = original.matrix
    sizes = even_sizes(len(matrix), form.count, bias=original.bias)
    order = by_correlation(matrix, sizes) if form.correlated else None
    if order is not None and bool((order.diff() == 1).all()):
        order = None  # it is the order that there was
    return BlockDiagonal.of_dense(matrix, sizes, order)


@apply.register
def _leading(form: Leading, original: Original) -> Factor:
    few = form.of == "rank"
    values, vectors = original.leading(int(form.amount)) if few else original.eigen
    definite = original.definite
    kept = LowRank.of_eigen(values, vectors, _rank(form, values), definite=definite)
    if not form.remainder:
        return kept
    return kept.completed(original.matrix.diagonal(), definite=definite)


@apply.register
def _pruned(form: Prune, original: Original) -> Factor:
    matrix = original.matrix
    entries = len(matrix) * (len(matrix) - 1) // 2
    return Pruned.of_dense(matrix, round(form.share * entries))


@apply.register
def _only_diagonal(_: OnlyDiagonal, original: Original) -> Factor:
    return Diagonal(original.matrix.diagonal().clone())


def _rank(form: Leading, values: Tensor) -> int:
    if form.of == "rank":
        return min(int(form.amount), len(values))
    if form.of == "share":
        return max(1, round(form.amount * len(values)))
    sizes = values.abs().double().sort(descending=True).values
    kept = sizes.cumsum(0)
    short = kept < form.amount * sizes.sum() * (1 - 1e-9)
    return min(int(short.sum()) + 1, len(values))
