"""Orders: how examples and their positions lie in the first axes of a tensor.

Which order a tensor has cannot be seen from its shape; ``proof`` tries those that
the shape allows, and proves one. From then on it is fixed.
"""

from collections.abc import Sequence
from enum import Enum

from torch import Tensor


class Order(Enum):
    """Where the batch of N examples is."""

    FIRST = "[N, …]"
    """Batch first."""

    FOLDED = "[N · k, …]"
    """Rows of an example side by side: windows of an image, flattened tokens."""

    SECOND = "[T, N, …]"
    """Sequence first."""

    STRIDED = "[T · N, …]"
    """Sequence first and flattened: the rows of an example are N apart."""


def possible(shape: Sequence[int], count: int) -> list[Order]:
    """List the orders that a shape without its features allows for ``count`` examples.

    Args:
        shape: Sizes of the axes before the features.
        count: N, the number of examples.

    Returns:
        The orders, the most usual one first; none if the examples cannot be in it.
    """
    orders = []
    if shape[0] == count:
        orders.append(Order.FIRST)
    elif shape[0] % count == 0 and shape[0] > 0:
        orders += [Order.FOLDED, Order.STRIDED]
    if len(shape) > 1 and shape[1] == count:
        orders.append(Order.SECOND)
    return orders


def fits(order: Order, shape: Sequence[int], count: int) -> bool:
    """Whether a shape without its features can have an order."""
    if order is Order.SECOND:
        return len(shape) > 1 and shape[1] == count
    exact = order is Order.FIRST
    return shape[0] == count if exact else shape[0] % count == 0


def arrange(x: Tensor, order: Order, count: int) -> Tensor:
    """Bring a tensor of any order into ``[N, …]``; positions keep their sequence."""
    if order is Order.FOLDED:
        return x.unflatten(0, (count, -1))
    if order is Order.STRIDED:
        return x.unflatten(0, (-1, count)).transpose(0, 1)
    return x.transpose(0, 1) if order is Order.SECOND else x
