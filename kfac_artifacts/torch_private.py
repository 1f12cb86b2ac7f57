"""What is used of torch without torch having promised it, in one place."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["add_all", "getter", "padding_of", "pytree", "storage_id", "wrapper"]

T = TypeVar("T", bound=Tensor)


def add_all(sums: Sequence[Tensor], others: Sequence[Tensor], factor: float) -> None:
    """Add ``factor`` times the others to the sums, in few kernels, in place."""
    torch._foreach_add_([*sums], [*others], alpha=factor)


def padding_of(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    """The padding of a convolution as ``pad`` wants it, ``"same"`` as numbers too."""
    return tuple(conv._reversed_padding_repeated_twice)


def storage_id(tensor: Tensor) -> int:
    """The identity of a tensor's memory, which views of it share."""
    return tensor.untyped_storage()._cdata  # data_ptr is 0 on meta


def wrapper(kind: type[T], shape: tuple[int, ...], like: Tensor) -> T:
    """Make a tensor of a class of one's own, which has no memory."""
    return Tensor._make_wrapper_subclass(
        kind, shape, dtype=like.dtype, device=like.device
    )


def getter(attribute: Any) -> Any:
    """What a mode of functions is told when an attribute of a tensor is looked up."""
    return attribute.__get__
