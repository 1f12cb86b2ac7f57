"""What storages share: checked rounding, and triangles of symmetric matrices."""

import torch
from torch import Tensor

from kfac_artifacts.errors import FormatError
from kfac_artifacts.factors import MAX_ASYMMETRY, Numbers, floats, relative_asymmetry

MAX_LOSS = 2.0**-7
"""Largest relative error of a number type; beyond it, float16 has lost small values."""


AT_ONCE = 2**20
"""Numbers that are looked at together, so that a large factor is not copied whole."""


def exact(values: Numbers) -> Tensor:
    """The numbers of a field in float64, on the CPU."""
    return floats(values).detach().to("cpu", torch.float64)


def exact_triangle(values: Numbers) -> Tensor:
    """What is on and above the diagonal of symmetric matrices, in float64, on the CPU.

    Args:
        values: Of shape ``[..., s, s]``; never held in float64 as a whole.

    Returns:
        Of shape ``[..., s (s + 1) / 2]``.

    Raises:
        FormatError: If they are not symmetric, or not finite.
    """
    return to_triangle(symmetric(floats(values).detach().cpu()), 0).double()


def finite(values: Tensor) -> Tensor:
    """Bring numbers into float32, on the CPU.

    Args:
        values: Any numbers.

    Returns:
        The same in float32.

    Raises:
        FormatError: If one is not finite.
    """
    found = values.detach().to("cpu", torch.float32)
    if not bool(found.isfinite().all()):
        raise FormatError("a value is not finite, or too large for float32")
    return found


def rounded(values: Tensor, dtype: str) -> Tensor:
    """Round numbers to a float type.

    Args:
        values: Numbers in float64.
        dtype: What torch calls the type.

    Returns:
        The rounded numbers, contiguous.

    Raises:
        FormatError: If one is not finite, or too many are too large or too small.
    """
    stored = values.to(getattr(torch, dtype))
    ends = values.aminmax() if values.numel() else (values.new_zeros(()),) * 2
    largest = torch.maximum(-ends[0], ends[1])
    unit = largest.where(largest > 0, 1.0)  # so that no square is beyond float64
    loss = size = 0.0
    parts = (t.flatten().split(AT_ONCE) for t in (stored, values))
    for own, true in zip(*parts, strict=True):
        loss += float(((own.double() - true) / unit).square().sum())
        size += float((true / unit).square().sum())
    if not (bool(stored.isfinite().all()) and loss <= MAX_LOSS**2 * size):
        raise FormatError(
            f"{dtype} cannot hold these values (from {values.abs().min():.1e} "
            f"to {values.abs().max():.1e}); store them as bfloat16 or float32"
        )
    return stored.contiguous()


def symmetric(matrices: Tensor) -> Tensor:
    """Refuse matrices of which half would be lost.

    Args:
        matrices: Of shape ``[..., s, s]``.

    Returns:
        The same.

    Raises:
        FormatError: If they are not symmetric, or not finite.
    """
    loss = relative_asymmetry([matrices])
    if not loss <= MAX_ASYMMETRY:
        raise FormatError(
            f"the matrix is not symmetric or not finite (relative asymmetry {loss:.1e})"
            "; half of it would be lost"
        )
    return matrices


def to_triangle(matrices: Tensor, above: int) -> Tensor:
    """Pack what is on and above the ``above``-th diagonal of ``[..., s, s]``."""
    size = matrices.shape[-1]
    lengths = range(max(size - above, 0), 0, -1)
    found = matrices.new_empty(*matrices.shape[:-2], sum(lengths))
    end = 0
    for row, length in enumerate(lengths):  # by places it takes their numbers as well
        start, end = end, end + length
        found[..., start:end] = matrices[..., row, size - length :]
    return found


def from_triangle(triangles: Tensor, shape: tuple[int, ...], above: int) -> Tensor:
    """Unpack symmetric matrices of a shape; what is between is zero."""
    matrices = triangles.new_zeros(shape)
    places = _places(shape[-1], above)
    matrices[..., places] = triangles
    matrices.mT[..., places] = triangles
    return matrices


def _places(size: int, above: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu(above)
