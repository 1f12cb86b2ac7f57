"""A head of several layers, as checkpoints have them between encoder and classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.task_vector.head import Head
from kfac_artifacts.task_vector.head_info import LINEAR, NORM, LayerInfo

ACTIVATE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu-tanh": partial(functional.gelu, approximate="tanh"),
    "relu": torch.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, eq=False)
class HeadLayer:
    """One layer of a head.

    Attributes:
        info: What it does.
        weight: Of a linear layer ``[outputs, inputs]``, of a norm ``[inputs]``.
        bias: An entry per output.
    """

    info: LayerInfo
    weight: Float[Tensor, "*rows inputs"] | None = None
    bias: Float[Tensor, " _"] | None = None

    def __call__(self, x: Float[Tensor, "n _"]) -> Float[Tensor, "n _"]:
        """Apply it, in the number type of ``x`` and where that is."""
        if self.weight is None or self.bias is None:
            return ACTIVATE[self.info.kind](x)
        weight, bias = self.weight.to(x), self.bias.to(x)
        if self.info.epsilon is not None:
            return functional.layer_norm(
                x, weight.shape, weight, bias, self.info.epsilon
            )
        return x @ weight.mT + bias

    @classmethod
    def linear(cls, weight: Tensor, bias: Tensor | None) -> "HeadLayer":
        """A linear layer; without a bias it is zero."""
        zero = weight.new_zeros(len(weight))
        info = LayerInfo(LINEAR, outputs=len(weight))
        return cls(info, weight, zero if bias is None else bias)

    @classmethod
    def norm(cls, weight: Tensor, bias: Tensor | None, epsilon: float) -> "HeadLayer":
        """A layer norm; without a bias it is zero."""
        zero = torch.zeros_like(weight)
        info = LayerInfo(NORM, epsilon=epsilon)
        return cls(info, weight, zero if bias is None else bias)


@dataclass(frozen=True, eq=False)
class LayeredHead(Head):
    """Linear layers, norms and activations, one after another.

    Attributes:
        layers: In their order; the first has numbers, and the last is linear, with an
            output per class.
        classes: Name of every class, in the order of those outputs.
    """

    layers: tuple[HeadLayer, ...]
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        kinds = ", ".join(layer.info.kind for layer in self.layers)
        return f"LayeredHead({len(self.classes)} classes: {kinds})"

    def __post_init__(self) -> None:
        outputs = self.layers[-1].info.outputs if self.layers else None
        if outputs is None:
            raise MismatchError("the last layer of a head must be a linear one")
        self._check_classes(outputs)

    @override
    def logits(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        self._check_features(features)
        for layer in self.layers:
            features = layer(features)
        return features

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{i}/{name}": tensor
            for i, layer in enumerate(self.layers)
            for name, tensor in (("weight", layer.weight), ("bias", layer.bias))
            if tensor is not None
        }

    @override
    def describe(self) -> dict[str, Json]:
        return {"head": [layer.info.to_json() for layer in self.layers]}
