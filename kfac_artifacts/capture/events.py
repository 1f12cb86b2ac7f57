"""What listeners are told of a pass: each use of a layer, and its cotangents."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from kfac_artifacts.capture.layers.base import LayerCall


@runtime_checkable
class Listener(Protocol):
    """Told of every input and every cotangent."""

    keeps_inputs: bool

    def on_input(self, call: LayerCall) -> None:
        """An input has come; ``call.x`` and ``call.a`` are dropped afterwards."""

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """A cotangent has come, ``[N, P, d_out]``; with the axes of ``call.a``."""


@runtime_checkable
class ListenerToSeveral(Listener, Protocol):
    """Told of several cotangents of every example at once, too."""

    def on_cotangents(self, call: LayerCall, g: Tensor) -> None:
        """K cotangents of every example have come, ``[K, N, P, d_out]``."""
