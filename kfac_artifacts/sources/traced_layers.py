"""The layers that a model runs through, as they are called."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from kfac_artifacts.task_vector import HeadLayer, LayerInfo


def _linear(
    input: Tensor,  # as torch calls it, where it is a keyword
    weight: Tensor,
    bias: Tensor | None = None,
) -> HeadLayer:
    return HeadLayer.linear(weight, bias)


def _norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *others: Any,
) -> HeadLayer:
    weight = torch.ones(*normalized_shape) if weight is None else weight
    return HeadLayer.norm(weight, bias, eps)


def _gelu(
    input: Tensor,
    approximate: str = "none",
) -> HeadLayer:
    return HeadLayer(LayerInfo("gelu-tanh" if approximate == "tanh" else "gelu"))


def _activation(name: str) -> Callable[..., HeadLayer]:
    return lambda *_, **__: HeadLayer(LayerInfo(name))


SEEN: Mapping[Any, Callable[..., HeadLayer]] = {
    functional.linear: _linear,
    functional.layer_norm: _norm,
    functional.gelu: _gelu,
    functional.relu: _activation("relu"),
    functional.silu: _activation("silu"),
    functional.tanh: _activation("tanh"),
    torch.relu: _activation("relu"),
    torch.tanh: _activation("tanh"),
    Tensor.relu: _activation("relu"),
    Tensor.tanh: _activation("tanh"),
}
"""Functions of torch, whoever calls them: a module, or a ``forward`` by itself."""


class TracedLayers(TorchFunctionMode):
    """Notes layers in the order of their calls; all other functions are passed over.

    Attributes:
        layers: What was called so far, with the very tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[HeadLayer] = []

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = SEEN.get(func)
        if made is not None:
            self.layers.append(made(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))
