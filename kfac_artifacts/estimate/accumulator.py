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
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Privacy
from kfac_artifacts.capture import (
    Coverage,
    FactorSum,
    LayerCall,
    Loaded,
    RecordBatch,
    Run,
)
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.estimate.sums import Sums
from kfac_artifacts.factors import Dense, Diagonal, Factor


class Accumulator:
    """Listens to passes and keeps one sum per factor: KFAC-expand.

    Args:
        run: The passes; its network computes in the number type of the sums.
        planned: The sums, if they are not those of A, B and Gramians.
        forward_only: Whether nothing is to be pulled back.

    Attributes:
        forward_only: The same.
        out_of_examples: Whether passes add nothing: other processes have examples left.
    """

    keeps_inputs = False

    def __init__(
        self,
        run: Run,
        planned: Mapping[str, FactorSum] | None = None,
        *,
        forward_only: bool = False,
    ) -> None:
        network, self._coverage = run.network, run.coverage
        if planned is None:
            planned = factor_sums(run.coverage, network.shapes)
        self.forward_only = forward_only
        self.sums = Sums(planned, network.template, run.workers)
        self.out_of_examples = False
        self._last_input: Tensor | None = None
        self._gradients: dict[str, Tensor] = {}
        self._later: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
        self._waiting = {
            name
            for layer in run.coverage.layers
            if layer.functional and run.workers.sharded  # experts come in any order
            for name, _ in layer.sums(network.shapes, leads=True)
            if name in planned
        }

    def on_input(self, call: LayerCall) -> None:
        """Add to A, unless another layer with the same input has done so."""
        leader = self._coverage.leaders.get(call.layer)
        if leader is None:
            self._last_input = call.x
            call.layer.add_input(call, self)
        elif self._last_input is not call.x:
            raise CoverageError(
                f"{call.layer.name} had the input of {leader.name} in the first batch, "
                "and now has another; exclude one of them"
            )

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """Add to B, or to the whole gradient of the batch's examples."""
        self.on_cotangents(call, g[None])

    def on_cotangents(self, call: LayerCall, g: Tensor) -> None:
        """Add K cotangents of every example, ``[K, N, P, d_out]``."""
        call.layer.add_cotangents(call, g, self)

    @property
    def positions(self) -> dict[str, int | None]:
        """Of how many positions each sum is; None where that is not to be told."""
        return {**self.sums.positions}

    @property
    def privacy(self) -> Privacy | None:
        """What noise guarantees for the examples; None without noise."""
        return None

    def add_inputs(self, factor: str, call: LayerCall, *, bias: bool) -> None:
        """Add real positions to an A; as ``LayerSums`` says."""
        self.add_rows(factor, call.real(call.a), bias=bias)

    def add_cotangents(self, factor: str, call: LayerCall, g: Tensor) -> None:
        """Add real positions to a B."""
        self.add_rows(factor, call.real_of_all(g))

    def add_counts(self, factor: str, ids: Tensor) -> None:
        """Count row numbers."""
        self.sums.add_counts(factor, ids[:0] if self.out_of_examples else ids)

    def add_gradients(self, factor: str, gradients: Tensor) -> None:
        """Add to whole gradients, which are squared when all calls have come."""
        _add_to(self._gradients, factor, gradients)

    def add_rows(self, factor: str, rows: Tensor, *, bias: bool = False) -> None:
        """Add outer products of rows."""
        rows = rows[:0] if self.out_of_examples else rows
        if factor in self._waiting:
            self._later[factor, bias].append(rows)
        else:
            self.sums.add_outer(factor, rows, bias=bias)

    def end_of_forward(self) -> None:
        """Add what has to wait: experts, in one order."""
        self._last_input = None
        self._add_later()

    def end_of_backward(self) -> None:
        """Square what is squared whole: all calls of a layer have been added up."""
        for factor in self.sums.planned:
            if factor in self._gradients:
                self.add_rows(factor, self._gradients.pop(factor))
        self._add_later()
        self.sums.check_order()

    def end_of_batch(self, loaded: Loaded) -> None:
        """All passes over a batch are over."""

    def forget_records(self) -> None:
        """Keep no records: some examples have been seen before."""

    def records(self) -> list[RecordBatch]:
        """What was kept of all examples; nothing, unless for an estimator that asks."""
        return []

    def factors(self, weight: int) -> dict[str, Factor]:
        """Turn the sums that live here into factors; the sums are used up.

        Args:
            weight: Number of examples, times draws.

        Returns:
            Factors by name.
        """
        found: dict[str, Factor] = {}
        for name in list(self.sums.tensors):
            mean = self.sums.take(name, weight)
            found[name] = Dense(mean) if mean.dim() == 2 else Diagonal(mean)
        return found

    def _add_later(self) -> None:
        for name, bias in sorted(self._later):
            self.sums.add_outer(name, torch.cat(self._later[name, bias]), bias=bias)
        self._later.clear()


@final
class ReducingAccumulator(Accumulator):
    """KFAC-reduce: the positions of an example are summed up first."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._inputs: dict[str, Tensor] = {}
        self._positions: dict[str, Tensor | int] = {}
        self._with_bias: set[str] = set()

    @override
    def add_inputs(self, factor: str, call: LayerCall, *, bias: bool) -> None:
        a, mask = call.a, call.mask
        count: Tensor | int = a.shape[1]
        if mask is not None:
            real = mask[..., None].to(a.dtype)
            a, count = a * real, real.sum(1)
        _add_to(self._inputs, factor, a.sum(1))
        self._positions[factor] = self._positions.get(factor, 0) + count
        self._with_bias |= {factor} if bias else set()

    @override
    def add_cotangents(self, factor: str, call: LayerCall, g: Tensor) -> None:
        _add_to(self._gradients, factor, g.sum(2).flatten(0, 1))

    @override
    def end_of_forward(self) -> None:
        for factor in self.sums.planned:
            if factor not in self._inputs:
                continue
            total, count = self._inputs.pop(factor), self._positions.pop(factor)
            if isinstance(count, Tensor):  # of experts, no token may have come
                some = count[:, 0] > 0
                total, count = total[some], count[some]
            self.add_rows(factor, total / count, bias=factor in self._with_bias)
        super().end_of_forward()


def factor_sums(
    coverage: Coverage, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, FactorSum]:
    """Plan the sum of every factor, by the shapes of the parameters."""
    return {
        name: planned
        for layer in coverage.layers
        for name, planned in layer.sums(shapes, leads=layer not in coverage.leaders)
    }


def _add_to(sums: dict[str, Tensor], key: str, value: Tensor) -> None:
    before = sums.get(key)
    sums[key] = value if before is None else before + value
