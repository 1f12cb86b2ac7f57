"""Accumulation: what proved layers see, summed up into factors and blocks.

With n examples and R real positions in all:

- ``kfac`` (KFAC-expand): ``A = (1/R) Σ a aᵀ`` over examples and positions, ``B = (1/n)
  Σ g gᵀ`` with the sum over positions kept;
- ``kfac-reduce``: ``A = (1/n) Σ ā āᵀ`` with ā the mean over an example's positions,
  ``B = (1/n) Σ ĝ ĝᵀ`` with ĝ the sum (Eschenhagen et al. 2023). Tables of vectors are
  as for ``kfac``, since the A of mean one-hots is no diagonal;
- Gramians: ``G = (1/n) Σ v vᵀ`` with v an example's whole gradient.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from kfac_artifacts.artifact import Block
from kfac_artifacts.capture.events import Visit
from kfac_artifacts.capture.layers.base import Layer, LinearLayer, TableLayer
from kfac_artifacts.capture.naming import (
    blocks_of,
    gramian_name,
    input_name,
    output_name,
)
from kfac_artifacts.capture.proof import Coverage
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.estimate.sums import Sums
from kfac_artifacts.factors import Dense, Diagonal, Factor
from kfac_artifacts.workers import Workers


class Accumulator:
    """Listens to passes and keeps one sum per factor.

    Args:
        coverage: The proved layers.
        shapes: Shape of every parameter.
        like: A tensor of the device and the number type that the network computes in.
        workers: The processes that compute together.
        reduce: Whether to sum over positions first (``kfac-reduce``).

    Attributes:
        out_of_examples: Whether passes add nothing: other processes have examples left.
    """

    keeps_inputs = False

    def __init__(
        self,
        coverage: Coverage,
        shapes: Mapping[str, tuple[int, ...]],
        like: Tensor,
        workers: Workers,
        *,
        reduce: bool = False,
    ) -> None:
        self._coverage = coverage
        self._reduce = reduce
        self.sums = Sums(sum_shapes(coverage, shapes), like, workers)
        self.out_of_examples = False
        self._sharded = workers.sharded
        self._means: dict[Layer, list[tuple[Tensor, Tensor | int]]] = defaultdict(list)
        self._totals: dict[Layer, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._later: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
        self._last: Visit | None = None

    def on_input(self, visit: Visit) -> None:
        """Add to A, unless another layer with the same input has done so."""
        layer = visit.layer
        leader = self._coverage.leaders.get(layer)
        if leader is not None:
            if self._last is None or self._last.x is not visit.x:
                raise CoverageError(
                    f"{layer.name} had the input of {leader.name} in the first batch, "
                    "and now has another; exclude one of them"
                )
        elif isinstance(layer, LinearLayer):
            self._last = Visit(layer, visit.call, visit.x, visit.a[:0], None)
            if self._reduce:
                self._means[layer].append(_over_positions(visit))
            else:
                self._add_rows(layer, visit.real(visit.a))
        elif not layer.whole:
            ids = visit.real(visit.a)
            self.sums.add_counts(
                input_name(layer), ids[:0] if self.out_of_examples else ids
            )

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Add to B, or to the whole gradient of the batch's examples."""
        self.on_cotangents(visit, g[None])

    def on_cotangents(self, visit: Visit, g: Tensor) -> None:
        """Add K cotangents of every example, ``[K, N, P, d_out]``."""
        layer = visit.layer
        if layer.whole:
            found = _whole_gradients(visit, g)
            for role, name in layer.parameters.items():
                _add_to(self._gradients, name, found[role])
        elif isinstance(layer, TableLayer):
            self._add_output(layer, visit.real_of_all(g * (visit.a >= 0)[..., None]))
        elif self._reduce and isinstance(layer, LinearLayer):
            _add_to(self._totals, layer, g.sum(2).flatten(0, 1))
        else:
            self._add_output(layer, visit.real_of_all(g))

    def end_of_forward(self) -> None:
        """Add what has to wait: all calls of a layer, and experts in one order."""
        self._last = None
        for layer in self._coverage.layers:
            parts = self._means.pop(layer, [])
            if not parts:
                continue
            total = sum((x for x, _ in parts[1:]), parts[0][0])
            count = sum((n for _, n in parts[1:]), parts[0][1])
            if isinstance(count, Tensor):  # of experts, no token may have come
                some = count[:, 0] > 0
                total, count = total[some], count[some]
            self._add_rows(layer, total / count)
        self._add_later()

    def end_of_backward(self) -> None:
        """Square what is squared whole: all calls of a layer have been added up."""
        for layer in self._coverage.layers:
            for name in layer.parameters.values() if layer.whole else ():
                if name in self._gradients:
                    rows = self._gradients.pop(name)
                    rows = rows[:0] if self.out_of_examples else rows
                    self.sums.add_outer(gramian_name(name), rows)
            if layer in self._totals:
                self._add_output(layer, self._totals.pop(layer))
        self._add_later()
        self.sums.check_order()

    def blocks(self) -> dict[str, Block]:
        """Describe the block of every parameter, or pair of them."""
        found: dict[str, Block] = {}
        for layer in self._coverage.layers:
            found |= blocks_of(layer, self._coverage.leaders.get(layer, layer))
        return found

    def factors(self, weight: int) -> dict[str, Factor]:
        """Turn the sums that live here into factors; the sums are used up.

        Args:
            weight: Number of examples, times draws.

        Returns:
            Factors by name.
        """
        found: dict[str, Factor] = {}
        for name in list(self.sums.tensors):
            by = self.sums.positions[name] if name.endswith(".A") else weight
            mean = self.sums.take(name, by)
            found[name] = Dense(mean) if mean.dim() == 2 else Diagonal(mean)
        return found

    def _add_rows(self, layer: Layer, rows: Tensor) -> None:
        self._add(layer, input_name(layer), rows, bias="bias" in layer.parameters)

    def _add_output(self, layer: Layer, rows: Tensor) -> None:
        self._add(layer, output_name(layer), rows)

    def _add(
        self, layer: Layer, name: str, rows: Tensor, *, bias: bool = False
    ) -> None:
        rows = rows[:0] if self.out_of_examples else rows
        if layer.functional and self._sharded:  # experts come in any order
            self._later[name, bias].append(rows)
        else:
            self.sums.add_outer(name, rows, bias=bias)

    def _add_later(self) -> None:
        for name, bias in sorted(self._later):
            self.sums.add_outer(name, torch.cat(self._later[name, bias]), bias=bias)
        self._later.clear()


def sum_shapes(
    coverage: Coverage, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shape of the sum of every factor, by the shapes of the parameters."""
    return {
        name: shape
        for layer in coverage.layers
        for name, shape in _shapes_of(layer, coverage, shapes)
    }


def _shapes_of(
    layer: Layer, coverage: Coverage, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    if layer.whole:
        for name in layer.parameters.values():
            size = prod(shapes[name])
            yield gramian_name(name), (size, size)
        return
    shape = shapes[layer.parameters["weight"]]
    d_out, d_in = layer.layout.dims(shape if layer.part is None else shape[1:])
    d_in += "bias" in layer.parameters
    yield output_name(layer), (d_out, d_out)
    if layer not in coverage.leaders:
        dense = isinstance(layer, LinearLayer)
        yield input_name(layer), (d_in, d_in) if dense else (d_in,)


def _whole_gradients(visit: Visit, g: Tensor) -> dict[str, Tensor]:
    """Gradient of every parameter for K cotangents of N examples, ``[K · N, …]``."""
    if len(g) == 1:
        return visit.layer.gradients(visit.a, g[0])
    found = torch.vmap(visit.layer.gradients, (None, 0))(visit.a, g)
    return {role: values.flatten(0, 1) for role, values in found.items()}


def _over_positions(visit: Visit) -> tuple[Tensor, Tensor | int]:
    """Sum of the inputs over an example's real positions, and how many these are."""
    if visit.mask is None:
        return visit.a.sum(1), visit.a.shape[1]
    real = visit.mask[..., None].to(visit.a.dtype)
    return (visit.a * real).sum(1), real.sum(1)


def _add_to(sums: dict[Any, Tensor], key: Layer | str, value: Tensor) -> None:
    before = sums.get(key)
    sums[key] = value if before is None else before + value
