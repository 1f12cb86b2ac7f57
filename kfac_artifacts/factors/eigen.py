"""Eigenvalues of symmetric matrices of any size of number.

LAPACK in float32 fails near the end of float32, and takes what is near its beginning
for zero. A power of two brings a matrix to size one, exactly.
"""

import math

import torch
from torch import Tensor

from kfac_artifacts.errors import FactorError

USUAL = (1e-12, 1e12)
"""Largest entries of matrices that are taken as they are."""
MOST = 126
"""Exponent of a power of two that float32 has with its inverse."""


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Find eigenvalues, in ascending order, and eigenvectors in columns.

    Args:
        matrix: Symmetric matrices ``[..., s, s]``.

    Returns:
        Eigenvalues, infinite if they are beyond the number type, and eigenvectors.

    Raises:
        FactorError: If an entry is not finite.
    """
    scaled, size = _to_size_one(matrix)
    values, vectors = torch.linalg.eigh(scaled)
    return values * size, vectors


def eigenvalue_range(matrices: Tensor) -> tuple[float, float]:
    """Find the smallest and the largest eigenvalue of all matrices.

    Args:
        matrices: Symmetric matrices ``[..., s, s]``.

    Returns:
        The two, which may be beyond the number type of the matrices.

    Raises:
        FactorError: If an entry is not finite.
    """
    scaled, size = _to_size_one(matrices)
    found = torch.linalg.eigvalsh(scaled)
    return float(found[..., 0].min()) * size, float(found[..., -1].max()) * size


def _to_size_one(matrices: Tensor) -> tuple[Tensor, float]:
    largest = float(matrices.abs().max())
    if not math.isfinite(largest):
        raise FactorError("it has entries beyond its number type")
    if largest == 0 or USUAL[0] < largest < USUAL[1]:
        return matrices, 1.0
    exponent = min(max(math.frexp(largest)[1], -MOST), MOST)
    return matrices * 2.0**-exponent, 2.0**exponent
