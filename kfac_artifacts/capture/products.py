"""Products of records: each with a symmetric result, so that half of the work suffices.

Padded positions are zero, and left out of what costs most.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.symmetric import add_outer, half_product

CACHED = 2**17
"""Numbers of a matrix that is read and written fast with another of its size."""


def kernels(
    x: Float[Tensor, "n k p d"],
    matrix: Float[Tensor, "d d"],
    real: Float[Tensor, "n p"] | None,
) -> Float[Tensor, "n k p p"]:
    """Compute ``x matrix xᵀ`` of every example.

    Args:
        x: Rows, zero where padded.
        matrix: A symmetric matrix.
        real: 1 where a position is real; None if all are.

    Returns:
        The products.
    """
    rows = x.flatten(0, 2)
    if real is None:
        half = half_product(rows, matrix)
    else:
        places = _places(x, real)
        half = torch.zeros_like(rows)
        half[places] = half_product(rows[places], matrix)
    found = half.view_as(x) @ x.mT
    return found + found.mT


def add_gram(
    total: Float[Tensor, "d d"],
    x: Float[Tensor, "n k p d"],
    real: Float[Tensor, "n p"] | None,
    weights: Float[Tensor, "n j p p"] | None = None,
) -> None:
    """Add ``Σ xᵀ weights x`` over all examples and K, divided by K.

    Args:
        total: The sum, of which only the upper triangle counts.
        x: Rows, zero where padded.
        real: 1 where a position is real; None if all are.
        weights: Symmetric, one for each of the K or for all; None for the identity.
    """
    places = None if real is None else _places(x, real)
    rows = _rows(x, places)
    others = rows if weights is None else _rows(weights @ x, places)
    draws = x.shape[1]
    add_outer(total, rows, others if draws == 1 else others / draws)


def add_squares(
    total: Float[Tensor, "o i"],
    pairs: Sequence[tuple[Float[Tensor, "k _ o"], Float[Tensor, "_ i"]]],
) -> None:
    """Add ``Σ (gᵀ a)²``, entry by entry, over pairs ``(g, a)``, the mean over their K.

    A part of the rows of all products is made and added before the next part, so that
    neither it nor its sum leaves the cache.

    Args:
        total: The sum.
        pairs: Of every example its cotangents and its inputs.
    """
    parts = max(1, round(total.numel() / CACHED))
    rows = -(-len(total) // parts)
    for start, part in zip(range(0, len(total), rows), total.split(rows), strict=True):
        M = torch.empty_like(part)
        for g, a in pairs:
            for each in g[:, :, start : start + len(part)]:
                torch.mm(each.mT, a, out=M)
                part.addcmul_(M, M, value=1 / len(g))


def _rows(x: Tensor, places: Tensor | None) -> Tensor:
    rows = x.flatten(0, 2)
    return rows if places is None else rows[places]


def _places(x: Tensor, real: Tensor) -> Tensor:
    """Which of the rows of ``[N, K, P, d]`` are real."""
    every = real[:, None].expand(-1, x.shape[1], -1)
    return every.flatten().nonzero()[:, 0]
