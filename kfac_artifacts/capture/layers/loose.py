"""Parameters that no module owns as its weight: class tokens, position tables.

Every example is given a copy of its own, so the copy's gradient is the example's.
"""

import math
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture.layers.base import GramianLayer, Layer
from kfac_artifacts.capture.layers.batch_layout import BatchLayout
from kfac_artifacts.capture.layers.copies import Copies, Decisions
from kfac_artifacts.capture.layers.tables import RowsLayer


class LooseParameter(Layer):
    """A parameter by itself; see ``loose_layer``."""

    looks_up = True
    reads_parameters = True
    rows: int
    width: int

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(name, {"weight": name})
        self.shape = shape
        self.batch_layouts[0] = BatchLayout.FIRST
        self._decisions = Decisions()

    @property
    @override
    def is_batch_first(self) -> bool:
        return True

    def leaves(self, parameter: Tensor, count: int) -> Tensor:
        """One copy per example, ``[N, rows, width]``, a leaf of the graph."""
        value = parameter.detach().reshape(1, self.rows, self.width)
        return value.repeat(count, 1, 1).requires_grad_()

    def copies(self, leaves: Tensor) -> Copies:
        """Show such leaves to the model as the one parameter."""
        own = leaves.clone().reshape(len(leaves), *self.shape)
        return Copies(own, self._decisions.begin())

    def row_numbers(self, count: int, device: torch.device) -> Tensor:
        """The rows that the examples look up: all of them, once each."""
        return torch.arange(self.rows, device=device).expand(count, -1)

    def end_of_forward(self) -> None:
        """See that the model did what it did when the decisions were proved."""
        self._decisions.end()

    @override
    def keep_decisions(self) -> None:
        self._decisions.proved = True

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        return {"weight": g.flatten(1)}


@final
class LooseTable(LooseParameter, RowsLayer):
    """T vectors: a table of which each example looks up every row once."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(name, shape)
        self.rows, self.width = shape[-2:]


@final
class LooseVector(LooseParameter, GramianLayer):
    """Any other parameter, of which the Gramian is kept."""

    keeps_inputs = False

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(name, shape)
        self.rows, self.width = 1, math.prod(shape)


def loose_layer(name: str, shape: tuple[int, ...]) -> LooseTable | LooseVector:
    """Make the layer of a parameter: of ``[T, D]`` or ``[1, T, D]`` a table."""
    wide = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    return (LooseTable if wide and shape[-2] > 1 else LooseVector)(name, shape)
