"""Sites: the places where parameters enter a network, one class per kind of map.

Canonical shapes at every site, for a batch of N examples with P positions each (P is 1
for a pooled vector): inputs ``a`` are ``[N, P, d_in]``, cotangents ``g`` are
``[N, P, d_out]``. The first axis of a module's input is the batch and the last its
features; what lies between are positions. That contract is declared here and proved by
``coverage`` before anything is accumulated.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import Layout


class Site(ABC):
    """A module, or modules that share their parameters, or one loose parameter."""

    whole: ClassVar[bool]
    """Whether per-example gradients are needed whole (Gramian), or a and g do."""

    keeps_inputs: ClassVar[bool] = False
    """Whether cotangents make no sense without the inputs."""

    part: int | None = None
    """Which slice of stacked parameters it is, along their first axis."""

    functional: bool = False
    """Whether its modules apply it by function, and so are not the map themselves."""

    def __init__(self, name: str, parameters: dict[str, str]) -> None:
        self.name = name
        self.parameters = parameters  # role ("weight", "bias") -> name
        self.modules: list[nn.Module] = []

    @abstractmethod
    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        """Bring a module's input into canonical shape."""

    @abstractmethod
    def cotangents(self, g: Tensor) -> Tensor:
        """Bring the cotangent of a module's output into canonical shape."""

    @abstractmethod
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        """Per-example gradient ``[N, …]`` of every parameter, flattened."""


def positions_first(x: Tensor) -> Tensor:
    """Flatten what lies between batch and features: ``[N, …, d]`` to ``[N, P, d]``."""
    return x[:, None] if x.dim() == 2 else x.flatten(1, -2)


@final
class LinearSite(Site):
    """``z = W a (+ b)``: Linear, transformers' Conv1D, Conv2d on unfolded patches."""

    whole = False

    def __init__(
        self,
        name: str,
        parameters: dict[str, str],
        layout: Layout,
        convolution: nn.Conv2d | None = None,
    ) -> None:
        super().__init__(name, parameters)
        self.layout = layout
        self._convolution = convolution

    @override
    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        if self._convolution is None:
            return positions_first(x)
        conv = self._convolution
        patches = nn.functional.unfold(
            x,
            conv.kernel_size,
            dilation=conv.dilation,
            padding=0 if isinstance(conv.padding, str) else conv.padding,  # "valid"
            stride=conv.stride,
        )
        return patches.mT

    @override
    def cotangents(self, g: Tensor) -> Tensor:
        return positions_first(g) if self._convolution is None else g.flatten(2).mT

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        weight = torch.einsum("npo,npi->noi", g, a)
        if self.layout is Layout.COLUMNS:
            weight = weight.mT
        return {"weight": weight.flatten(1), "bias": g.sum(1)}


@final
class TableSite(Site):
    """A table of vectors looked up by number: a linear map on one-hots.

    Its inputs are the numbers, ``[N, P]``; -1 stands for a row without gradient.
    """

    whole = False
    keeps_inputs = True
    layout = Layout.COLUMNS

    def __init__(
        self, name: str, parameters: dict[str, str], shape: tuple[int, int]
    ) -> None:
        super().__init__(name, parameters)
        self.rows, self.width = shape

    @override
    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        padding = getattr(module, "padding_idx", None)
        ids = x.flatten(1)
        return ids if padding is None else ids.masked_fill(ids == padding, -1)

    @override
    def cotangents(self, g: Tensor) -> Tensor:
        return positions_first(g)

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        real = (a >= 0)[..., None]
        table = g.new_zeros(g.shape[0], self.rows, self.width)
        index = a.clamp(min=0)[..., None].expand_as(g)
        return {"weight": table.scatter_add_(1, index, g * real).flatten(1)}


@final
class NormSite(Site):
    """``z = w ⊙ x̂ (+ b)``: LayerNorm, RMSNorm; ``x̂`` is the normalised input."""

    whole = True
    keeps_inputs = True

    def __init__(
        self,
        name: str,
        parameters: dict[str, str],
        normalise: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(name, parameters)
        self._normalise = normalise

    @override
    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        return positions_first(x)

    @override
    def cotangents(self, g: Tensor) -> Tensor:
        return positions_first(g)

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        scaled = g * self._normalise(a).to(g.dtype)
        return {"weight": scaled.sum(1), "bias": g.sum(1)}


@final
class LooseSite(Site):
    """A parameter that no module owns as its weight: class token, position table.

    Every example is given a copy of its own, so the copy's gradient is the example's.
    One vector is covered by its Gramian; T vectors, as a table of which each example
    looks up every row once.
    """

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(name, {"weight": name})
        self.shape = shape
        self.width = shape[-1]
        self.rows = shape[1] if len(shape) == 3 else 1

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """One vector has a Gramian, a table has not."""
        return self.rows == 1

    @property
    def layout(self) -> Layout:
        """A table's rows are the columns of W."""
        return Layout.COLUMNS

    def copies(self, parameter: Tensor, count: int) -> Tensor:
        """One copy per example, ``[N, rows, width]``, each a leaf of the graph."""
        value = parameter.detach().reshape(1, self.rows, self.width)
        return value.repeat(count, 1, 1).requires_grad_()

    def row_numbers(self, count: int, device: torch.device) -> Tensor:
        """The rows that the examples look up: all of them, once each."""
        return torch.arange(self.rows, device=device).expand(count, -1)

    @override
    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        return x

    @override
    def cotangents(self, g: Tensor) -> Tensor:
        return g

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        return {"weight": g.flatten(1)}
