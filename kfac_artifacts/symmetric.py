"""Sums of outer products, by upper triangles of symmetric matrices, in panels of rows.

PyTorch has no symmetric rank-k update; by panels one costs little more than half of a
full product, and as much of the traffic between processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

PANELS = 8
"""More save work (k panels cost (1 + 1/k) / 2 of a full product), fewer are faster."""


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
    rows = -(-matrix.shape[0] // PANELS)
    for start in range(0, matrix.shape[0], rows):
        yield matrix[start : start + rows, start:]


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
