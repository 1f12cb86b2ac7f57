"""Layers: the places where parameters enter a network, one class per kind of map.

Canonical shapes at every layer, for a batch of N examples with P positions each (P is 1
for a pooled vector): inputs ``a`` are ``[N, P, d_in]``, cotangents ``g`` are
``[N, P, d_out]``. A layer puts the features last; where in the axes before them the
examples are (``batch_layouts``) is proved by ``proof`` before anything is summed up.

A layer says itself which blocks it becomes, what it adds to the sums of their factors,
and what is recorded of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import Block, GramianBlock, KroneckerBlock, Layout
from kfac_artifacts.capture.layers.batch_layout import BatchLayout
from kfac_artifacts.capture.layers.copies import Decisions
from kfac_artifacts.capture.record import Record

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every parameter by name."""


@dataclass(frozen=True)
class FactorSum:
    """A sum that becomes a factor.

    Attributes:
        shape: ``(d, d)`` of a matrix, ``(d,)`` of a diagonal.
        over_positions: Whether it is divided by the positions that were added to it,
            as A is; else by the examples.
    """

    shape: tuple[int, ...]
    over_positions: bool = False


@dataclass
class LayerCall:
    """One use of a layer in a forward pass.

    Attributes:
        layer: The layer.
        number: How many uses of the layer came before in this pass.
        x: The module's input as it was given.
        a: The input in canonical shape, ``[N, P, d_in]``, or row numbers ``[N, P]``;
            as the layer puts it out where it is not canonical, or its layout is not
            proved yet.
        mask: Which positions are real, ``[N, P]``, or None when all are.
        rows: Numbers of the real positions among the N · P, or None when all are;
            the same tensor at every layer with these positions.
        layout: Where the examples are in the module's tensors, None until proved.
    """

    layer: "Layer"
    number: int
    x: Tensor
    a: Tensor
    mask: Tensor | None
    rows: Tensor | None = None
    layout: BatchLayout | None = None

    def real(self, x: Tensor) -> Tensor:
        """Real positions of all examples, ``[M, d]``, of a tensor ``[N, P, d]``."""
        flat = x.flatten(0, 1)
        return flat if self.rows is None else flat[self.rows]

    def real_of_all(self, g: Tensor) -> Tensor:
        """The same of K cotangents, ``[K · M, d]`` of ``[K, N, P, d]``."""
        if self.layout is BatchLayout.SHARED:
            flat = g.flatten(0, 2)
            return flat[flat.any(dim=1)]  # a short text reads few relative positions
        if self.rows is None:
            return g.flatten(0, 2)
        return g.flatten(1, 2)[:, self.rows].flatten(0, 1)


@runtime_checkable
class LayerSums(Protocol):
    """What layers add to; how positions that share a weight are summed is its own."""

    def add_inputs(self, factor: str, call: LayerCall, *, bias: bool) -> None:
        """Add ``Σ a aᵀ``, with a bias of inputs with a last entry 1."""

    def add_cotangents(self, factor: str, call: LayerCall, g: Tensor) -> None:
        """Add ``Σ g gᵀ`` of K cotangents of every example, ``[K, N, P, d_out]``."""

    def add_counts(self, factor: str, ids: Tensor) -> None:
        """Count row numbers ``[M]``; -1 is a position that belongs to no row."""

    def add_rows(self, factor: str, rows: Tensor) -> None:
        """Add ``Σ r rᵀ`` of rows ``[M, d]``."""

    def add_gradients(self, factor: str, gradients: Tensor) -> None:
        """Add part of the whole gradient of K · N examples, squared at the end."""


class Layer(ABC):
    """A module, or modules that share their parameters, or one loose parameter.

    A kind of one's own derives from ``LinearLayer`` or ``GramianLayer``, and is made
    known by ``register_layer``.

    Args:
        name: What its block is called, usually the module's name.
        parameters: Role to name; ``weight`` is always there, ``bias`` is usual.
    """

    has_gramian: ClassVar[bool]
    """Whether whole gradients of examples are summed up, or a and g apart."""

    keeps_inputs: ClassVar[bool] = False
    """Whether cotangents make no sense without the inputs."""

    is_canonical: ClassVar[bool] = True
    """Whether a and g are brought into canonical shape; else they keep their axes."""

    looks_up: ClassVar[bool] = False
    """Whether inputs are numbers of rows, which all examples of a batch may share."""

    shows_rows: ClassVar[bool] = False
    """Whether A tells how often the data use each row, as of a table of tokens."""

    reads_parameters: ClassVar[bool] = False
    """Whether it needs its parameters' values whole at any time."""

    unseen: ClassVar[str] = "f uses it without calling its module"
    """Why nothing is seen of it, when f depends on it."""

    part: int | None = None
    """Which slice of stacked parameters it is, along their first axis."""

    functional: bool = False
    """Whether its modules apply it by function, and so are not the map themselves."""

    def __init__(self, name: str, parameters: dict[str, str]) -> None:
        self.name = name
        self.parameters = parameters
        self.modules: list[nn.Module] = []
        self.batch_layouts: dict[int, BatchLayout] = {}
        """Where the examples are, proved, for every call of a forward pass."""
        self.decisions: dict[int, Decisions] = {}
        """Where copies of the outputs go, for every call that all examples share."""

    @property
    def is_hooked(self) -> bool:
        """Whether it is seen at the inputs and outputs of its modules."""
        return not (self.functional or self.looks_up)

    @property
    def is_batch_first(self) -> bool:
        """Whether its examples can be nowhere but first."""
        return self.functional or not self.is_canonical

    def inputs(self, x: Tensor) -> Tensor:
        """Put the features of a module's input last, ``[…, d_in]``; they may be."""
        return x

    def cotangents(self, g: Tensor) -> Tensor:
        """Put the features of the cotangent of its output last; they may be."""
        return g

    def shared_input(self, call: LayerCall) -> Hashable | None:
        """What must be equal for layers of one input to share A; None if none do."""
        return None

    def share(self, number: int) -> None:
        """Take what a call sees for something that all examples share."""
        self.batch_layouts[number] = BatchLayout.SHARED
        self.decisions[number] = Decisions()

    def unshare(self) -> None:
        """Take no call for that any more."""
        for number in self.decisions:
            del self.batch_layouts[number]
        self.decisions.clear()

    def stop_sharing(self) -> bool:
        """Take what all examples share for that of each; whether that is another."""
        return False

    def keep_decisions(self) -> None:
        """From now on do in every pass what was done in the first ones."""
        for decisions in self.decisions.values():
            decisions.proved = True

    @abstractmethod
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        """Per-example gradient ``[N, …]`` of every parameter by role, flattened."""

    @abstractmethod
    def blocks(self, leader: "Layer") -> dict[str, Block]:
        """Describe its blocks by name; the factor A is that of ``leader``."""

    @abstractmethod
    def sums(self, shapes: Shapes, *, leads: bool) -> Iterator[tuple[str, FactorSum]]:
        """Name the sums that it adds to; A among them if it leads its input."""

    @abstractmethod
    def add_input(self, call: LayerCall, sums: LayerSums) -> None:
        """Add a use in a forward pass."""

    @abstractmethod
    def add_cotangents(self, call: LayerCall, g: Tensor, sums: LayerSums) -> None:
        """Add K cotangents of every example, ``[K, N, P, d_out]``."""


def gramian_factor(parameter: str) -> str:
    """What the Gramian of a parameter is called."""
    return f"{parameter}.G"


class GramianLayer(Layer):
    """A layer of few parameters, whose Gramian is kept whole."""

    has_gramian = True
    keeps_inputs = True
    reads_parameters = True

    @override
    def blocks(self, leader: Layer) -> dict[str, Block]:
        return {
            name: GramianBlock(name, ((gramian_factor(name),),))
            for name in self.parameters.values()
        }

    @override
    def sums(self, shapes: Shapes, *, leads: bool) -> Iterator[tuple[str, FactorSum]]:
        for name in self.parameters.values():
            size = prod(shapes[name])
            yield gramian_factor(name), FactorSum((size, size))

    @override
    def add_input(self, call: LayerCall, sums: LayerSums) -> None:
        """Nothing to add before a gradient has come."""

    @override
    def add_cotangents(self, call: LayerCall, g: Tensor, sums: LayerSums) -> None:
        if len(g) == 1:
            found = self.gradients(call.a, g[0])
        else:
            several = torch.vmap(self.gradients, (None, 0))(call.a, g)
            found = {role: values.flatten(0, 1) for role, values in several.items()}
        for role, name in self.parameters.items():
            sums.add_gradients(gramian_factor(name), found[role])


class KroneckerLayer(Layer):
    """A linear map ``z = W a (+ b)``, whose A and B are summed up apart."""

    has_gramian = False

    layout: Layout = Layout.ROWS
    """How its weight becomes W."""

    keeps_mean: bool = False
    """Whether A has the mean of the inputs in its last column, even without a bias."""

    has_diagonal_inputs: ClassVar[bool] = False
    """Whether inputs are one-hot, and so A is diagonal."""

    @property
    def input_factor(self) -> str:
        """What its factor A is called."""
        return f"{self.name}.A"

    @property
    def output_factor(self) -> str:
        """What its factor B is called."""
        return f"{self.name}.B"

    @property
    def has_bias(self) -> bool:
        """Whether it has a bias, whose input is the constant 1."""
        return "bias" in self.parameters

    @property
    def has_constant(self) -> bool:
        """Whether the last entry of the inputs that are summed up is the constant 1."""
        return self.has_bias or self.keeps_mean

    @override
    def blocks(self, leader: Layer) -> dict[str, Block]:
        shared = leader if isinstance(leader, KroneckerLayer) else self
        terms = ((shared.input_factor, self.output_factor),)
        weight, bias = self.parameters["weight"], self.parameters.get("bias")
        block = KroneckerBlock(weight, bias, self.layout, terms, self.part)
        constant = self.has_constant and not self.has_bias
        return {self.name: replace(block, constant=constant)}

    @override
    def sums(self, shapes: Shapes, *, leads: bool) -> Iterator[tuple[str, FactorSum]]:
        shape = shapes[self.parameters["weight"]]
        d_out, d_in = self.layout.dims(shape if self.part is None else shape[1:])
        d_in += self.has_constant
        yield self.output_factor, FactorSum((d_out, d_out))
        if leads:
            of_inputs = (d_in,) if self.has_diagonal_inputs else (d_in, d_in)
            yield self.input_factor, FactorSum(of_inputs, over_positions=True)

    @abstractmethod
    def record(self, calls: Sequence[LayerCall], g: Tensor) -> Record:
        """Join what was seen in its calls, whose positions add up.

        Args:
            calls: All calls of a forward pass.
            g: Their cotangents, ``[N, K, P, d_out]`` with the positions of all calls.

        Returns:
            The record of the batch.
        """


def positions_of(calls: Sequence[LayerCall], g: Tensor) -> tuple[Tensor, Tensor | None]:
    """Join the inputs of several calls, and which positions are real, ``[N, P]``."""
    a = torch.cat([call.a for call in calls], dim=1) if calls[1:] else calls[0].a
    if all(call.mask is None for call in calls):
        return a, None
    masks = [
        call.a.new_ones(call.a.shape[:2]) if call.mask is None else call.mask
        for call in calls
    ]
    return a, torch.cat([mask.to(g.dtype) for mask in masks], dim=1)
