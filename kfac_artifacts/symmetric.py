"""Sums of outer products, by upper triangles of symmetric matrices, in panels of rows.

PyTorch has no symmetric rank-k update; by panels one costs little more than half of a
full product, and as much of the traffic between processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

PANELS, LEAST = 8, 16
"""Panels, and rows of one: more save work (k panels cost (1 + 1/k) / 2 of a full
product), fewer are faster, and of few rows libraries add up one product after the
other, so that the error grows with their number."""
NARROW = 64
"""Below so many columns products are added up in float64 on a processor."""
AT_ONCE = 65536
"""Rows of which a float64 copy is made."""


def add_outer(
    total: Float[Tensor, "d d"],
    rows: Float[Tensor, "m d"],
    others: Float[Tensor, "m d"] | None = None,
) -> None:
    """Add ``rowsᵀ rows`` to the upper triangle; what is below is undefined.

    Args:
        total: The sum.
        rows: The rows.
        others: What stands in place of the second ``rows``, if ``rowsᵀ others`` is
            symmetric.
    """
    others = rows if others is None else others
    if len(total) < NARROW and total.device.type == "cpu":
        for start in range(0, len(rows), AT_ONCE):
            left, right = (x[start : start + AT_ONCE].double() for x in (rows, others))
            total += (left.mT @ right).to(total.dtype)
        return
    for panel in upper_panels(total):
        start = total.shape[1] - panel.shape[1]
        panel.addmm_(rows[:, start : start + panel.shape[0]].mT, others[:, start:])


def half_product(
    rows: Float[Tensor, "m d"], matrix: Float[Tensor, "d d"]
) -> Float[Tensor, "m d"]:
    """Multiply by half of a symmetric matrix: ``U`` where ``U + Uᵀ`` is the matrix.

    ``rows matrix rowsᵀ`` is ``K + Kᵀ`` with ``K = (rows U) rowsᵀ``, for little more
    than half of the work.

    Args:
        rows: The rows.
        matrix: A symmetric matrix.

    Returns:
        ``rows U``.
    """
    found = torch.empty_like(rows)
    for panel in upper_panels(matrix):
        start, height = matrix.shape[1] - panel.shape[1], panel.shape[0]
        part = slice(start, start + height)
        torch.mm(rows[:, part], panel[:, :height] / 2, out=found[:, part])
        found[:, part].addmm_(rows[:, :start], matrix[:start, part])
    return found


def upper_panels(matrix: Float[Tensor, "d d"]) -> Iterator[Float[Tensor, "p q"]]:
    """Views of the matrix that cover its upper triangle: rows from the diagonal on."""
    size = matrix.shape[0]
    count = max(1, min(PANELS, size // LEAST))
    bounds = [size * number // count for number in range(count + 1)]
    for start, end in pairwise(bounds):
        yield matrix[start:end, start:]


def mirror(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Make a matrix symmetric by its upper triangle, in place."""
    for panel in upper_panels(matrix):
        start, width = matrix.shape[1] - panel.shape[1], panel.shape[0]
        end = start + width
        matrix[end:, start:end] = panel[:, width:].mT
        corner = panel[:, :width]
        corner.copy_(corner.triu() + corner.triu(1).mT)
    return matrix


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """Number type of the sums: float32, or float64 if the network computes in it."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def tensor_cores() -> Iterator[None]:
    """Let products of float32 use TF32 on GPUs that have it, for a while.

    Its rounding of the inputs changes factors by less than a thousandth, far below the
    noise of random cotangents; sums stay float32.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
