"""Patches: what a convolution multiplies by its kernel."""

from typing import TypeAlias

from torch import Tensor, nn

from kfac_artifacts.torch_private import padding_of

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d


def patches(conv: Convolution, x: Tensor) -> Tensor:
    """Cut the patches that a convolution multiplies by its kernel.

    Args:
        conv: Its kernel size, stride, dilation, padding and mode are used.
        x: ``[N, C, *space]``, one to three axes of space.

    Returns:
        ``[N, *positions, C, *kernel]``.
    """
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padding = padding_of(conv)
    x = nn.functional.pad(x, padding, mode=mode) if any(padding) else x
    axes = len(conv.kernel_size)
    sizes = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(sizes):
        reach = dilation * (size - 1) + 1
        x = x.unfold(2 + axis, reach, stride)[..., ::dilation]
    return x.movedim(1, 1 + axes)


def geometry(conv: Convolution | None) -> tuple[object, ...]:
    """All that decides which patches are cut: equal for equal patches."""
    if conv is None:
        return ()
    sizes = (conv.kernel_size, conv.stride, conv.dilation)
    return (*sizes, padding_of(conv), conv.padding_mode)
