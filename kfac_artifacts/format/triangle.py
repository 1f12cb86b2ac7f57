"""Packing symmetric matrices: the rows of one triangle, one after another."""

import torch
from torch import Tensor

from kfac_artifacts.errors import FormatError
from kfac_artifacts.factors import MAX_ASYMMETRY, relative_asymmetry


def to_triangle(matrices: Tensor, above: int) -> Tensor:
    """Pack what is on and above the ``above``-th diagonal of ``[..., s, s]``."""
    return matrices[..., _places(matrices.shape[-1], above)].contiguous()


def from_triangle(packed: Tensor, shape: tuple[int, ...], above: int) -> Tensor:
    """Unpack symmetric matrices of a shape; what is between is zero."""
    matrices = packed.new_zeros(shape)
    places = _places(shape[-1], above)
    matrices[..., places] = packed
    matrices.mT[..., places] = packed
    return matrices


def check_symmetric(matrices: Tensor) -> None:
    """Refuse matrices of which half would be lost.

    Args:
        matrices: Of shape ``[..., s, s]``.

    Raises:
        FormatError: If they are not symmetric, or not finite.
    """
    loss = relative_asymmetry([matrices])
    if not loss <= MAX_ASYMMETRY:
        raise FormatError(
            f"the matrix is not symmetric or not finite (relative asymmetry {loss:.1e})"
            "; half of it would be lost"
        )


def _places(size: int, above: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu(above)
