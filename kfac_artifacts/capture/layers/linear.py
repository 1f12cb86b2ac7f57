"""Linear maps: Linear, transformers' Conv1D, convolutions of patches."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import Layout
from kfac_artifacts.capture.layers.base import (
    KroneckerLayer,
    LayerCall,
    LayerSums,
    positions_of,
)
from kfac_artifacts.capture.layers.grouped_convolution import GroupedLayer
from kfac_artifacts.capture.layers.kinds import MAX_GRAMIAN, Found, Kind, is_plain
from kfac_artifacts.capture.layers.patches import Convolution, geometry, patches
from kfac_artifacts.capture.record import LinearRecord

CONV1D = "transformers.pytorch_utils.Conv1D"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class LinearLayer(KroneckerLayer):
    """``z = W a (+ b)``; one of your own may say where a and g have their features.

    Args:
        name: Of the module.
        parameters: Role (``weight``, ``bias``) to name.
        layout: How the weight becomes W.
        convolution: Whose patches are the inputs, if so.
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, str],
        layout: Layout = Layout.ROWS,
        convolution: Convolution | None = None,
    ) -> None:
        super().__init__(name, parameters)
        self.layout = layout
        self._convolution = convolution

    @override
    def inputs(self, x: Tensor) -> Tensor:
        conv = self._convolution
        return x if conv is None else patches(conv, x).flatten(len(conv.stride) + 1)

    @override
    def cotangents(self, g: Tensor) -> Tensor:
        return g if self._convolution is None else g.movedim(1, -1)

    @override
    def shared_input(self, call: LayerCall) -> Hashable | None:
        if type(self).inputs is not LinearLayer.inputs:
            return None
        return self.has_constant, geometry(self._convolution), call.a.shape

    @final
    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        weight = torch.einsum("npo,npi->noi", g, a)
        if self.layout is Layout.COLUMNS:
            weight = weight.mT
        return {"weight": weight.flatten(1), "bias": g.sum(1)}

    @final
    @override
    def add_input(self, call: LayerCall, sums: LayerSums) -> None:
        sums.add_inputs(self.input_factor, call, bias=self.has_constant)

    @final
    @override
    def add_cotangents(self, call: LayerCall, g: Tensor, sums: LayerSums) -> None:
        sums.add_cotangents(self.output_factor, call, g)

    @final
    @override
    def record(self, calls: Sequence[LayerCall], g: Tensor) -> LinearRecord:
        a, real = positions_of(calls, g)
        g = g if real is None else g * real[:, None, :, None]
        return LinearRecord(g, a, real, self.has_bias).compact()


def linear(module: nn.Module) -> Found:
    """Linear and transformers' Conv1D."""
    if isinstance(module, nn.Linear) and is_plain(module, nn.Linear):
        return Kind(LinearLayer)
    if f"{type(module).__module__}.{type(module).__qualname__}" == CONV1D:
        return Kind(partial(LinearLayer, layout=Layout.COLUMNS))
    return None


def convolution(module: nn.Module) -> Found:
    """Convolutions, and those in groups, whose Gramian is small."""
    if isinstance(module, TRANSPOSED):
        return "a transposed convolution"
    if not isinstance(module, CONVOLUTIONS):
        return None
    if not is_plain(module, *CONVOLUTIONS):
        return "a convolution with a forward of its own"
    if module.groups == 1:
        return Kind(partial(LinearLayer, convolution=module))
    size = module.weight.numel()
    if size > MAX_GRAMIAN:
        return f"a grouped convolution; its Gramian would be of size {size}"
    return Kind(partial(GroupedLayer, convolution=module))
