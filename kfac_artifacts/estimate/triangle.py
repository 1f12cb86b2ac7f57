"""Symmetric matrices by their upper triangle, in panels of rows.

PyTorch has no symmetric rank-k update; by panels one costs little more than half of a
full product, and as much of the traffic between processes.
"""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

PANELS = 8
"""More save work (k panels cost (1 + 1/k) / 2 of a full product), fewer are faster."""


def add_outer(total: Float[Tensor, "d d"], rows: Float[Tensor, "m d"]) -> None:
    """Add ``rowsᵀ rows`` to the upper triangle; what is below is undefined."""
    for panel in upper_panels(total):
        start = total.shape[1] - panel.shape[1]
        panel.addmm_(rows[:, start : start + panel.shape[0]].mT, rows[:, start:])


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
