"""Convolutions in groups, depthwise above all: their whole gradient is small."""

from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture.layers.base import GramianLayer
from kfac_artifacts.capture.layers.patches import Convolution, patches


@final
class GroupedLayer(GramianLayer):
    """A convolution in groups.

    Inputs stay ``[N, C, *space]``: patches would be as many times larger as the kernel
    has entries, and are cut only when a cotangent comes.
    """

    is_canonical = False

    def __init__(
        self, name: str, parameters: dict[str, str], convolution: Convolution
    ) -> None:
        super().__init__(name, parameters)
        self._convolution = convolution

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        groups = self._convolution.groups
        rows = patches(self._convolution, a.to(g.dtype))
        axes = len(self._convolution.kernel_size)
        rows = rows.flatten(1, axes).flatten(2).unflatten(2, (groups, -1))
        g = g.flatten(2)
        weight = torch.einsum("ngop,npgi->ngoi", g.unflatten(1, (groups, -1)), rows)
        return {"weight": weight.flatten(1), "bias": g.sum(2)}
