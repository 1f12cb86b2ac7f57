"""Layers: the places where parameters enter a network, one class per kind of map.

Canonical shapes at every layer, for a batch of N examples with P positions each (P is 1
for a pooled vector): inputs ``a`` are ``[N, P, d_in]``, cotangents ``g`` are
``[N, P, d_out]``. A layer puts the features last; where in the axes before them the
examples are (``orders``) is proved by ``proof`` before anything is accumulated.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import Layout
from kfac_artifacts.capture.layers.batch_layout import Order
from kfac_artifacts.capture.layers.convolutions import Convolution, geometry, patches
from kfac_artifacts.capture.layers.copies import Decisions


class Layer(ABC):
    """A module, or modules that share their parameters, or one loose parameter."""

    whole: ClassVar[bool]
    """Whether per-example gradients are needed whole (Gramian), or a and g do."""

    keeps_inputs: ClassVar[bool] = False
    """Whether cotangents make no sense without the inputs."""

    layout: Layout = Layout.ROWS
    """How its weight becomes W; of no account where gradients are whole."""

    arranged: ClassVar[bool] = True
    """Whether a and g are brought into canonical shape; else they keep their axes."""

    part: int | None = None
    """Which slice of stacked parameters it is, along their first axis."""

    functional: bool = False
    """Whether its modules apply it by function, and so are not the map themselves."""

    def __init__(self, name: str, parameters: dict[str, str]) -> None:
        self.name = name
        self.parameters = parameters  # role ("weight", "bias") -> name
        self.modules: list[nn.Module] = []
        self.orders: dict[int, Order] = {}
        """Where the examples are, proved, for every call of a forward pass."""

    def inputs(self, x: Tensor) -> Tensor:
        """Put the features of a module's input last, ``[…, d_in]``; they may be."""
        return x

    def cotangents(self, g: Tensor) -> Tensor:
        """Put the features of the cotangent of its output last; they may be."""
        return g

    @abstractmethod
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        """Per-example gradient ``[N, …]`` of every parameter, flattened."""


@final
class LinearLayer(Layer):
    """``z = W a (+ b)``: Linear, transformers' Conv1D, convolutions of patches."""

    whole = False

    def __init__(
        self,
        name: str,
        parameters: dict[str, str],
        layout: Layout,
        convolution: Convolution | None = None,
    ) -> None:
        super().__init__(name, parameters)
        self.layout = layout
        self.geometry = () if convolution is None else geometry(convolution)
        self._convolution = convolution

    @override
    def inputs(self, x: Tensor) -> Tensor:
        conv = self._convolution
        return x if conv is None else patches(conv, x).flatten(len(conv.stride) + 1)

    @override
    def cotangents(self, g: Tensor) -> Tensor:
        return g if self._convolution is None else g.movedim(1, -1)

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        weight = torch.einsum("npo,npi->noi", g, a)
        if self.layout is Layout.COLUMNS:
            weight = weight.mT
        return {"weight": weight.flatten(1), "bias": g.sum(1)}


@final
class TableLayer(Layer):
    """A table of vectors looked up by number: a linear map on one-hots.

    Its inputs are the numbers, ``[N, P]``, with an axis of one feature until they are
    arranged; -1 stands for a row without gradient.
    """

    whole = False
    keeps_inputs = True
    layout = Layout.COLUMNS

    def __init__(
        self, name: str, parameters: dict[str, str], shape: tuple[int, int]
    ) -> None:
        super().__init__(name, parameters)
        self.rows, self.width = shape
        self.common: dict[int, bool] = {}
        """Of every call with one row of numbers: whether all examples share it."""

    def spread(
        self, call: int, numbers: Tensor, rows: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Give every example numbers and rows of its own where all share one.

        Args:
            call: How many look-ups came before in the forward pass.
            numbers: What is looked up, ``[N, …]``, ``[1, T]`` or ``[T]``.
            rows: What is found, ``[…, D]``.
            count: N.

        Returns:
            ``[N, T]`` and ``[N, T, D]``, or both as they are.
        """
        if numbers.dim() == 1:
            common = self.common.setdefault(call, len(numbers) != count)
        else:
            common = numbers.dim() == 2 and len(numbers) == 1
        if not common:
            return numbers, rows
        return numbers.expand(count, -1), rows.expand(count, -1, -1)

    @override
    def inputs(self, x: Tensor) -> Tensor:
        return x[..., None]

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        real = (a >= 0)[..., None]
        table = g.new_zeros(g.shape[0], self.rows, self.width)
        index = a.clamp(min=0)[..., None].expand_as(g)
        return {"weight": table.scatter_add_(1, index, g * real).flatten(1)}


@final
class LooseParameter(Layer):
    """A parameter that no module owns as its weight: class token, position table.

    Every example is given a copy of its own, so the copy's gradient is the example's.
    T vectors are covered as a table of which each example looks up every row once;
    anything else by its Gramian.

    Args:
        name: Of the parameter.
        shape: Its shape.
    """

    layout = Layout.COLUMNS

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(name, {"weight": name})
        self.shape = shape
        table = _is_table(shape)
        self.rows = shape[-2] if table else 1
        self.width = shape[-1] if table else math.prod(shape)
        self.orders[0] = Order.FIRST
        self.decisions = Decisions()

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """A table has no Gramian, anything else has."""
        return self.rows == 1

    def copies(self, parameter: Tensor, count: int) -> Tensor:
        """One copy per example, ``[N, rows, width]``, each a leaf of the graph."""
        value = parameter.detach().reshape(1, self.rows, self.width)
        return value.repeat(count, 1, 1).requires_grad_()

    def row_numbers(self, count: int, device: torch.device) -> Tensor:
        """The rows that the examples look up: all of them, once each."""
        return torch.arange(self.rows, device=device).expand(count, -1)

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        return {"weight": g.flatten(1)}


def _is_table(shape: tuple[int, ...]) -> bool:
    """Whether a parameter is T vectors: ``[T, D]`` or ``[1, T, D]``."""
    wide = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    return wide and shape[-2] > 1
