"""Squares of whole gradients, summed up: the diagonal of the Gramian.

With M the gradient of an example for a cotangent, summed over positions and calls, the
diagonal is ``E[M²]``, entry by entry. No other sums are made.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture import (
    FactorSum,
    KroneckerLayer,
    Layer,
    LayerCall,
    Loaded,
    Run,
    gramian_factor,
)
from kfac_artifacts.estimate.accumulator import Accumulator


def squares_of(layer: KroneckerLayer) -> str:
    """What the diagonal of a linear map is called."""
    return f"{layer.name}.S"


@final
class SquaringAccumulator(Accumulator):
    """Keeps what one backward pass shows of a batch, and squares it at its end.

    Args:
        run: The passes.
        planned: The sums.
    """

    def __init__(self, run: Run, planned: Mapping[str, FactorSum]) -> None:
        super().__init__(run, planned)
        self._layers = run.coverage.layers
        self._calls: dict[Layer, list[LayerCall]] = defaultdict(list)
        self._g: dict[tuple[Layer, int], Tensor] = {}

    @override
    def on_input(self, call: LayerCall) -> None:
        self._calls[call.layer].append(replace(call, rows=None, layout=None))

    @override
    def on_cotangents(self, call: LayerCall, g: Tensor) -> None:
        self._g[call.layer, call.number] = g.detach()

    @override
    def end_of_forward(self) -> None:
        """Nothing to add before a gradient has come."""

    @override
    def end_of_backward(self) -> None:
        for layer in self._layers:
            calls = self._calls[layer]
            g = [self._g[layer, call.number] for call in calls]
            if isinstance(layer, KroneckerLayer):
                record = layer.record(calls, torch.cat(g, dim=2).transpose(0, 1))
                self._add(squares_of(layer), record.squares().flatten())
            else:
                self._add_whole(layer, calls, g)
        self._g.clear()
        self.sums.check_order()

    @override
    def end_of_batch(self, loaded: Loaded) -> None:
        self._calls.clear()

    def _add_whole(self, layer: Layer, calls: list[LayerCall], g: list[Tensor]) -> None:
        parts = [
            torch.vmap(layer.gradients, (None, 0))(call.a, each)
            for call, each in zip(calls, g, strict=True)
        ]
        for role, parameter in layer.parameters.items():
            whole = torch.stack([part[role] for part in parts]).sum(0)
            squares = whole.flatten(2).square().sum((0, 1))
            self._add(gramian_factor(parameter), squares)

    def _add(self, name: str, squares: Tensor) -> None:
        self.sums.add_values(name, squares * (not self.out_of_examples))
