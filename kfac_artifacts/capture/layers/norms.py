"""Norms, whose whole gradient is small.

A norm is ``z = w ⊙ x̂ (+ b)``, where x̂ depends on the input alone.
"""

from collections.abc import Callable
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import layer_norm
from typing_extensions import override

from kfac_artifacts.capture.layers.base import GramianLayer
from kfac_artifacts.capture.layers.kinds import Found, Kind, is_plain

OVER_THE_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
OF_CHANNELS = (
    *OVER_THE_BATCH,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


@final
class NormLayer(GramianLayer):
    """A norm over one axis, for every position by itself: LayerNorm, RMSNorm.

    Args:
        name: Of the module.
        parameters: Role to name.
        normalise: From ``[N, P, d]`` to x̂.
        channels_first: Whether the features are axis 1 of its input, not the last.
    """

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
class ChannelLayer(GramianLayer):
    """A norm that looks at several axes at once: batch, group and instance norms.

    Its statistics may be those of an example, never those of the batch.

    Args:
        name: Of the module.
        parameters: Role to name.
        normalise: From ``[N, …]`` to x̂ of the same shape.
        features: The axes of the weight in the input, ``(1,)`` for channels.
    """

    is_canonical = False

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


def norm(module: nn.Module) -> Found:
    """Norms by class, or by their name and what they do; the proof tells."""
    if isinstance(module, OVER_THE_BATCH) and module.running_mean is None:
        return "a batch norm without running statistics: f mixes the examples"
    normalise = by_behaviour(module)
    if isinstance(module, OF_CHANNELS):
        return Kind(partial(ChannelLayer, normalise=normalise, features=(1,)))
    own = dict(module.named_parameters(recurse=False))
    named = isinstance(module, nn.LayerNorm) or "Norm" in type(module).__name__
    if not (named and {"weight"} <= set(own) <= {"weight", "bias"}):
        return None
    axes = own["weight"].dim()
    if isinstance(module, nn.LayerNorm) and axes > 1:
        features = tuple(range(-axes, 0))
        return Kind(partial(ChannelLayer, normalise=normalise, features=features))
    first = _channels_first(module)
    if isinstance(module, nn.LayerNorm) and is_plain(module, nn.LayerNorm):
        shape = list(module.normalized_shape)
        normalise = partial(layer_norm, normalized_shape=shape, eps=module.eps)
    elif first:
        normalise = by_behaviour(module, channels_first=True)
    return Kind(partial(NormLayer, normalise=normalise, channels_first=first))


def _channels_first(module: nn.Module) -> bool:
    """The two ways in which vision models say that features are axis 1."""
    name: object = getattr(module, "data_format", None)
    return name == "channels_first" or type(module).__name__ == "LayerNorm2d"
