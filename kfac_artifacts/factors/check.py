"""Whether the numbers of a factor stand for a finite symmetric matrix.

Sums of squares are taken in float64 and of numbers of size one: entries of 3e19 have
squares that float32 cannot hold, and a comparison with infinity proves nothing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.fields import Role
from kfac_artifacts.factors.int8 import MAX_SCALE, Numbers, floats

MAX_FLOAT = torch.finfo(torch.float32).max
STORED_ASYMMETRY = 1e-6
"""Largest ``‖M - Mᵀ‖ / ‖M‖`` of a stored matrix: readers may rely on half of it."""
MAX_ASYMMETRY = 1e-4
"""Largest one of a matrix of which half may be dropped: rounding makes no more."""
ROWS = 512


def check_factor(factor: Factor, asymmetry: float = MAX_ASYMMETRY) -> None:
    """Refuse a factor that is not finite, or not symmetric.

    Args:
        factor: The factor, as it was decoded or computed.
        asymmetry: Largest relative asymmetry of matrices that are kept in full.

    Raises:
        FactorError: If an entry of its matrix is not finite, or beyond float32 where it
            is a sum of products, or the matrix is not symmetric.
    """
    fields, shapes = factor.fields(), factor.shapes
    for name, numbers in fields.items():
        bad = _not_finite(numbers)
        if bad:
            raise FactorError(f"{name} has {bad} values that are not finite")
    if not factor.sum_bound() <= MAX_FLOAT:
        raise FactorError("its vectors and values make entries beyond float32")
    whole = [x for n, x in fields.items() if shapes[n].role is Role.MATRIX]
    found = relative_asymmetry([x for x in whole if isinstance(x, Tensor)])
    if not found <= asymmetry:
        raise FactorError(f"not symmetric: relative asymmetry {found:.2e}")


def relative_asymmetry(matrices: Sequence[Tensor]) -> float:
    """Compute ``‖M - Mᵀ‖ / ‖M‖`` over stacks of matrices, whatever their size.

    Args:
        matrices: Finite matrices ``[..., s, s]``.

    Returns:
        The ratio of Frobenius norms; zero where all entries are.
    """
    if all(torch.equal(matrix, matrix.mT) for matrix in matrices):
        return 0.0  # the usual case, and the cheap one
    unit = max(map(largest, matrices))
    loss = size = 0.0
    for matrix in matrices:
        for start in range(0, matrix.shape[-1], ROWS):
            rows = matrix[..., start : start + ROWS, :].double() / unit
            columns = matrix[..., start : start + ROWS].mT.double() / unit
            loss += float((rows - columns).square().sum())
            size += float(rows.square().sum())
    return (loss / size) ** 0.5


def _not_finite(numbers: Numbers) -> int:
    """Count the values of a field that are not finite when they are decoded."""
    if not isinstance(numbers, Tensor):
        stored = sum(_not_finite(tensor) for tensor in numbers.parts().values())
        if stored or numbers.scales.numel() == 0 or numbers.scales.max() <= MAX_SCALE:
            return stored
    values = floats(numbers)
    if math.isfinite(largest(values)):  # one look at each, and no mask of them
        return 0
    return int((~values.isfinite()).sum())


def largest(values: Tensor) -> float:
    """The largest magnitude of numbers, nan if there is one; zero of other fields."""
    if not values.is_floating_point() or values.numel() == 0:
        return 0.0
    low, high = torch.aminmax(values)
    return float(torch.maximum(-low, high))
