"""Layers whose whole gradient is small: norms and grouped convolutions.

A norm is ``z = w ⊙ x̂ (+ b)``, where x̂ depends on the input alone.
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.layers.convolutions import Convolution, patches


@final
class NormLayer(Layer):
    """A norm over one axis, for every position by itself: LayerNorm, RMSNorm.

    Args:
        name: Of the module.
        parameters: Role to name.
        normalise: From ``[N, P, d]`` to x̂.
        channels_first: Whether the features are axis 1 of its input, not the last.
    """

    whole = True
    keeps_inputs = True

    def __init__(
        self,
        name: str,
        parameters: dict[str, str],
        normalise: Callable[[Tensor], Tensor],
        *,
        channels_first: bool = False,
    ) -> None:
        super().__init__(name, parameters)
        self._normalise = normalise
        self._axis = 1 if channels_first else -1

    @override
    def inputs(self, x: Tensor) -> Tensor:
        return x.movedim(self._axis, -1)

    @override
    def cotangents(self, g: Tensor) -> Tensor:
        return g.movedim(self._axis, -1)

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        scaled = g * self._normalise(a).to(g.dtype)
        return {"weight": scaled.sum(1), "bias": g.sum(1)}


@final
class ChannelLayer(Layer):
    """A norm that looks at several axes at once: batch, group and instance norms.

    Its statistics may be those of an example, never those of the batch.

    Args:
        name: Of the module.
        parameters: Role to name.
        normalise: From ``[N, …]`` to x̂ of the same shape.
        features: The axes of the weight in the input, ``(1,)`` for channels.
    """

    whole = True
    keeps_inputs = True
    arranged = False

    def __init__(
        self,
        name: str,
        parameters: dict[str, str],
        normalise: Callable[[Tensor], Tensor],
        features: tuple[int, ...],
    ) -> None:
        super().__init__(name, parameters)
        self._normalise = normalise
        self._features = features

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        scaled = g * self._normalise(a).to(g.dtype)
        return {"weight": self._summed(scaled), "bias": self._summed(g)}

    def _summed(self, values: Tensor) -> Tensor:
        kept = {axis % values.dim() for axis in self._features}
        others = [axis for axis in range(1, values.dim()) if axis not in kept]
        return values.sum(others).flatten(1) if others else values.flatten(1)


@final
class GroupedLayer(Layer):
    """A convolution in groups, depthwise above all: its whole gradient is small.

    Inputs stay ``[N, C, *space]``: patches would be as many times larger as the kernel
    has entries, and are cut only when a cotangent comes.
    """

    whole = True
    keeps_inputs = True
    arranged = False

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


def by_behaviour(
    module: nn.Module, *, channels_first: bool = False
) -> Callable[[Tensor], Tensor]:
    """Give the x̂ of any module ``z = w ⊙ x̂ + b``: z at w = 1 less z at w = 0, b = 0.

    The difference also removes what does not depend on w, as in ``(1 + w) ⊙ x̂``.

    Args:
        module: A norm with a ``weight`` and perhaps a ``bias``.
        channels_first: Give it ``[N, d, P, 1]`` for an input of ``[N, P, d]``.

    Returns:
        The function.
    """

    def at(weight: float, x: Tensor) -> Tensor:
        own = dict(module.named_parameters(recurse=False))
        values = {n: torch.zeros_like(p) for n, p in own.items()}
        values["weight"] = torch.full_like(own["weight"], weight)
        return functional_call(module, values, (x,))

    def normalise(x: Tensor) -> Tensor:
        training, module.training = module.training, False
        try:
            with torch.no_grad():
                return at(1.0, x) - at(0.0, x)
        finally:
            module.training = training

    def normalise_channels(x: Tensor) -> Tensor:
        return normalise(x.mT[..., None])[..., 0].mT

    return normalise_channels if channels_first else normalise
