"""From passes to records: what listens, and what it makes of it."""

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from kfac_artifacts.capture.layers.base import KroneckerLayer, Layer, LayerCall
from kfac_artifacts.capture.record import LinearRecord, Record
from kfac_artifacts.symmetric import accumulation


class Recorder:
    """Listens to a pass, and makes a record of every block of its layers.

    A Gramian block is recorded as a linear map of one position whose input is 1: its M
    is the whole gradient, ``[D, 1]``.

    Args:
        exact: Whether the K = C cotangents of an example are the unit vectors. Records
            hold them times √C, so that their mean is what unit vectors sum up to.
    """

    keeps_inputs = False
    out_of_examples = False

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact
        self._calls: dict[KroneckerLayer, list[LayerCall]] = defaultdict(list)
        self._g: dict[tuple[Layer, int], list[Tensor]] = defaultdict(list)
        self._whole: dict[str, list[Tensor]] = defaultdict(list)
        self._sum: dict[str, Tensor] = {}

    def on_input(self, call: LayerCall) -> None:
        """Keep the input."""
        if isinstance(call.layer, KroneckerLayer):
            kept = replace(call, rows=None, layout=None)
            self._calls[call.layer].append(kept)

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """Keep the cotangent, or the gradient of a Gramian block."""
        layer = call.layer
        if not layer.has_gramian:
            self._g[layer, call.number].append(g.detach().to(accumulation(g.dtype)))
            return
        found = layer.gradients(call.a, g)
        for role, name in layer.parameters.items():
            before = self._sum.get(name)
            value = found[role].detach().to(accumulation(g.dtype))
            self._sum[name] = value if before is None else before + value

    def end_of_forward(self) -> None:
        """Nothing to do."""

    def end_of_backward(self) -> None:
        """Close the gradients of one cotangent: all calls of a layer have come."""
        for name, value in self._sum.items():
            self._whole[name].append(value)
        self._sum.clear()

    def take(self) -> dict[str, Record]:
        """Give the records of the batch by block, and forget them."""
        records: dict[str, Record] = {}
        for layer, calls in self._calls.items():
            g = [self._stacked(self._g[layer, call.number]) for call in calls]
            # copies of all that is kept cost as much as a product with it
            joined = torch.cat(g, dim=2) if g[1:] else g[0]
            records[layer.name] = layer.record(calls, joined)
        for name, values in self._whole.items():
            gradient = self._stacked(values)[:, :, None]
            one = gradient.new_ones(len(gradient), 1, 1)
            records[name] = LinearRecord(gradient, one)
        self._calls.clear()
        self._g.clear()
        self._whole.clear()
        return records

    def _stacked(self, of_cotangents: list[Tensor]) -> Tensor:
        first, *others = of_cotangents
        g = torch.stack(of_cotangents, dim=1) if others else first[:, None]
        return g * g.shape[1] ** 0.5 if self._exact else g
