"""What listeners hear of a pass: each use of a layer, and its cotangents."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.layers.batch_layout import Order


@dataclass
class Visit:
    """One use of a layer in a forward pass.

    Attributes:
        layer: The layer.
        call: How many uses of the layer came before in this pass.
        x: The module's input as it was given.
        a: The input in canonical shape, ``[N, P, d_in]``, or row numbers ``[N, P]``;
            as the layer puts it out where it is not arranged, or its order is not
            proved yet.
        mask: Which positions are real, ``[N, P]``, or None when all are.
        rows: Numbers of the real positions among the N · P, or None when all are;
            the same tensor at every layer with these positions.
        order: Where the examples are in the module's tensors, None until proved.
    """

    layer: Layer
    call: int
    x: Tensor
    a: Tensor
    mask: Tensor | None
    rows: Tensor | None = None
    order: Order | None = None

    def real(self, x: Tensor) -> Tensor:
        """Real positions of all examples, ``[M, d]``, of a tensor ``[N, P, d]``."""
        flat = x.flatten(0, 1)
        return flat if self.rows is None else flat[self.rows]

    def real_of_all(self, g: Tensor) -> Tensor:
        """The same of K cotangents, ``[K · M, d]`` of ``[K, N, P, d]``."""
        if self.rows is None:
            return g.flatten(0, 2)
        return g.flatten(1, 2)[:, self.rows].flatten(0, 1)


@runtime_checkable
class Listener(Protocol):
    """Told of every input and every cotangent."""

    keeps_inputs: bool

    def on_input(self, visit: Visit) -> None:
        """An input has come; ``visit.x`` and ``visit.a`` are dropped afterwards."""

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """A cotangent has come, ``[N, P, d_out]``; arranged as ``visit.a`` is."""


@runtime_checkable
class ListenerToSeveral(Listener, Protocol):
    """Told of several cotangents of every example at once, too."""

    def on_cotangents(self, visit: Visit, g: Tensor) -> None:
        """K cotangents of every example have come, ``[K, N, P, d_out]``."""
