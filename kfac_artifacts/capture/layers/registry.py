"""Kinds of modules, and the layer of each; a wrong guess does no harm: it is proved."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from torch import nn
from torch.nn.functional import layer_norm

from kfac_artifacts.artifact import Layout
from kfac_artifacts.capture.layers.attention import obstacle
from kfac_artifacts.capture.layers.base import Layer, LinearLayer, TableLayer
from kfac_artifacts.capture.layers.norms import (
    ChannelLayer,
    GroupedLayer,
    NormLayer,
    by_behaviour,
)

MAX_GRAMIAN = 8192
"""Largest parameter whose Gramian is kept whole: 128 MiB packed."""

CONV1D = "transformers.pytorch_utils.Conv1D"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
OVER_THE_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
OF_CHANNELS = (
    *OVER_THE_BATCH,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


@dataclass(frozen=True)
class Kind:
    """How to make the layer of a module.

    Attributes:
        make: From name and parameters (role to name) to the layer.
        roles: The module's own name of a parameter to its role in the layer.
    """

    make: Callable[[str, dict[str, str]], Layer]
    roles: Mapping[str, str] = field(
        default_factory=lambda: {"weight": "weight", "bias": "bias"}
    )


Found: TypeAlias = Kind | str | None
"""A kind, or the reason why modules of it are not covered, or None for any other."""


def kind_of(module: nn.Module) -> Found:
    """Say how to make the layer of a module, or why there is none.

    Args:
        module: It holds parameters of its own.

    Returns:
        Its kind, a reason, or None if no kind is known.
    """
    for rule in RULES:
        found = rule(module)
        if found is not None:
            return found
    return None


def _linear(module: nn.Module) -> Found:
    if isinstance(module, nn.Linear) and _plain(module, nn.Linear):
        return Kind(partial(LinearLayer, layout=Layout.ROWS))
    if f"{type(module).__module__}.{type(module).__qualname__}" == CONV1D:
        return Kind(partial(LinearLayer, layout=Layout.COLUMNS))
    return None


def _convolution(module: nn.Module) -> Found:
    if isinstance(module, TRANSPOSED):
        return "a transposed convolution"
    if not isinstance(module, CONVOLUTIONS):
        return None
    if not any(_plain(module, kind) for kind in CONVOLUTIONS):
        return "a convolution with a forward of its own"
    if module.groups == 1:
        layout = Layout.ROWS
        return Kind(partial(LinearLayer, layout=layout, convolution=module))
    size = module.weight.numel()
    if size > MAX_GRAMIAN:
        return f"a grouped convolution; its Gramian would be of size {size}"
    return Kind(partial(GroupedLayer, convolution=module))


def _table(module: nn.Module) -> Found:
    if isinstance(module, nn.EmbeddingBag):
        return "an nn.EmbeddingBag: it gives sums of rows, not rows"
    if not isinstance(module, nn.Embedding):
        return None
    if module.max_norm is not None:
        return "a table with max_norm: reading it changes it"
    if module.scale_grad_by_freq:
        return "a table with scale_grad_by_freq: its gradient is not that of f"
    rows, width = module.weight.shape
    return Kind(partial(TableLayer, shape=(rows, width)))


def _attention(module: nn.Module) -> Found:
    if not isinstance(module, nn.MultiheadAttention):
        return None
    roles = {"in_proj_weight": "weight", "in_proj_bias": "bias"}
    return obstacle(module) or Kind(_in_projection, roles)


def _in_projection(name: str, parameters: dict[str, str]) -> Layer:
    lone = name == parameters["weight"]
    return LinearLayer(name if lone else f"{name}.in_proj", parameters, Layout.ROWS)


def _norm(module: nn.Module) -> Found:
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
    if isinstance(module, nn.LayerNorm) and _plain(module, nn.LayerNorm):
        shape = list(module.normalized_shape)
        normalise = partial(layer_norm, normalized_shape=shape, eps=module.eps)
    elif first:
        normalise = by_behaviour(module, channels_first=True)
    return Kind(partial(NormLayer, normalise=normalise, channels_first=first))


def _channels_first(module: nn.Module) -> bool:
    """The two ways in which vision models say that features are axis 1."""
    name: object = getattr(module, "data_format", None)
    return name == "channels_first" or type(module).__name__ == "LayerNorm2d"


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    return type(module).forward is kind.forward


RULES: tuple[Callable[[nn.Module], Found], ...] = (
    _linear,
    _convolution,
    _table,
    _attention,
    _norm,
)
"""The first that finds something decides."""
