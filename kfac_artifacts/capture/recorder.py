"""From passes to records: what listens, and what it makes of it."""

from collections import defaultdict

import torch
from torch import Tensor

from kfac_artifacts.capture.events import Visit
from kfac_artifacts.capture.layers.base import Layer, LinearLayer, TableLayer
from kfac_artifacts.capture.record import LinearRecord, Record, TableRecord
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
        self._visits: dict[Layer, list[Visit]] = defaultdict(list)
        self._g: dict[tuple[Layer, int], list[Tensor]] = defaultdict(list)
        self._whole: dict[str, list[Tensor]] = defaultdict(list)
        self._sum: dict[str, Tensor] = {}

    def on_input(self, visit: Visit) -> None:
        """Keep the input."""
        if not visit.layer.whole:
            kept = Visit(visit.layer, visit.call, visit.x, visit.a, visit.mask)
            self._visits[visit.layer].append(kept)

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Keep the cotangent, or the gradient of a Gramian block."""
        layer = visit.layer
        if not layer.whole:
            self._g[layer, visit.call].append(g.detach().to(accumulation(g.dtype)))
            return
        found = layer.gradients(visit.a, g)
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
        for layer, visits in self._visits.items():
            g = [self._stacked(self._g[layer, visit.call]) for visit in visits]
            records[layer.name] = _record(layer, visits, torch.cat(g, dim=2))
        for name, values in self._whole.items():
            gradient = self._stacked(values)[:, :, None]
            one = gradient.new_ones(len(gradient), 1, 1)
            records[name] = LinearRecord(gradient, one)
        self._visits.clear()
        self._g.clear()
        self._whole.clear()
        return records

    def _stacked(self, of_cotangents: list[Tensor]) -> Tensor:
        g = torch.stack(of_cotangents, dim=1)
        return g * g.shape[1] ** 0.5 if self._exact else g


def _record(layer: Layer, visits: list[Visit], g: Tensor) -> Record:
    """Join the calls of a layer: they add up like positions."""
    real = None
    if any(visit.mask is not None for visit in visits):
        real = torch.cat([_real(visit).to(g.dtype) for visit in visits], dim=1)
        g = g * real[:, None, :, None]
    a = torch.cat([visit.a for visit in visits], dim=1) if visits[1:] else visits[0].a
    if isinstance(layer, LinearLayer):
        return LinearRecord(g, a, real, bias="bias" in layer.parameters).compact()
    if real is not None:
        a = a.masked_fill(real == 0, -1)
    rows = layer.rows if isinstance(layer, TableLayer) else a.shape[1]
    return TableRecord(g, a, rows)


def _real(visit: Visit) -> Tensor:
    """Which positions are real, ``[N, P]``."""
    return visit.a.new_ones(visit.a.shape[:2]) if visit.mask is None else visit.mask
