"""Batch layouts: how examples and their positions lie in the first axes of a tensor.

Which layout a tensor has cannot be seen from its shape; ``proof`` tries those that
the shape allows, and proves one. From then on it is fixed.
"""

from collections.abc import Sequence
from enum import Enum

from torch import Tensor


class BatchLayout(Enum):
    """Where the batch of N examples is."""

    FIRST = "[N, …]"
    """Batch first."""

    FOLDED = "[N · k, …]"
    """Rows of an example side by side: windows of an image, flattened tokens."""

    SECOND = "[T, N, …]"
    """Sequence first."""

    STRIDED = "[T · N, …]"
    """Sequence first and flattened: the rows of an example are N apart."""

    SHARED = "no batch"
    """All examples share it, as relative positions; each is given a copy of its own."""


def possible(shape: Sequence[int], count: int) -> list[BatchLayout]:
    """List the layouts that a shape without its features allows for ``count`` examples.

    Args:
        shape: Sizes of the axes before the features.
        count: N, the number of examples.

    Returns:
        The layouts, the most usual one first; none if the examples cannot be in it.
    """
    layouts = []
    if shape[0] == count:
        layouts.append(BatchLayout.FIRST)
    elif shape[0] % count == 0 and shape[0] > 0:
        layouts += [BatchLayout.FOLDED, BatchLayout.STRIDED]
    if len(shape) > 1 and shape[1] == count:
        layouts.append(BatchLayout.SECOND)
    return layouts


def fits(layout: BatchLayout, shape: Sequence[int], count: int) -> bool:
    """Whether a shape without its features can have a layout that has a batch."""
    if layout is BatchLayout.SECOND:
        return len(shape) > 1 and shape[1] == count
    exact = layout is BatchLayout.FIRST
    return shape[0] == count if exact else shape[0] % count == 0


def canonical(x: Tensor, layout: BatchLayout, count: int) -> Tensor:
    """Bring a tensor of any layout into ``[N, …]``; positions keep their sequence."""
    if layout is BatchLayout.FOLDED:
        return x.unflatten(0, (count, -1))
    if layout is BatchLayout.STRIDED:
        return x.unflatten(0, (-1, count)).transpose(0, 1)
    return x.transpose(0, 1) if layout is BatchLayout.SECOND else x
