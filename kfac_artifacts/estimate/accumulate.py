"""Accumulation: what proved sites see, summed up into factors and blocks.

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
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.estimate.coverage.proof import Coverage
from kfac_artifacts.estimate.naming import (
    blocks_of,
    gramian_name,
    input_name,
    output_name,
)
from kfac_artifacts.estimate.passes.visits import Visit
from kfac_artifacts.estimate.processes.workers import Workers
from kfac_artifacts.estimate.sites.base import LinearSite, Site, TableSite
from kfac_artifacts.estimate.sums import Sums
from kfac_artifacts.factors import Dense, Diagonal, Factor


class Accumulator:
    """Listens to passes and keeps one sum per factor.

    Args:
        coverage: The proved sites.
        shapes: Shape of every parameter.
        like: A tensor of the device and the number type that the network computes in.
        workers: The processes that compute together.
        reduce: Whether to sum over positions first (``kfac-reduce``).

    Attributes:
        muted: Whether a pass adds nothing, because this process has no examples left.
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
        self.muted = False
        self._dealt = workers.sharded
        self._means: dict[Site, list[tuple[Tensor, Tensor | int]]] = defaultdict(list)
        self._totals: dict[Site, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._later: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
        self._last: Visit | None = None

    def on_input(self, visit: Visit) -> None:
        """Add to A, unless another site with the same input has done so."""
        site = visit.site
        leader = self._coverage.leaders.get(site)
        if leader is not None:
            if self._last is None or self._last.x is not visit.x:
                raise CoverageError(
                    f"{site.name} had the input of {leader.name} in the first batch, "
                    "and now has another; exclude one of them"
                )
        elif isinstance(site, LinearSite):
            self._last = Visit(site, visit.call, visit.x, visit.a[:0], None)
            if self._reduce:
                self._means[site].append(_over_positions(visit))
            else:
                self._add_rows(site, visit.real(visit.a))
        elif not site.whole:
            ids = visit.real(visit.a)
            self.sums.add_counts(input_name(site), ids[:0] if self.muted else ids)

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Add to B, or to the whole gradient of the batch's examples."""
        self.on_cotangents(visit, g[None])

    def on_cotangents(self, visit: Visit, g: Tensor) -> None:
        """Add K cotangents of every example, ``[K, N, P, d_out]``."""
        site = visit.site
        if site.whole:
            found = _whole_gradients(visit, g)
            for role, name in site.parameters.items():
                _add_to(self._gradients, name, found[role])
        elif isinstance(site, TableSite):
            self._add_output(site, visit.real_of_all(g * (visit.a >= 0)[..., None]))
        elif self._reduce and isinstance(site, LinearSite):
            _add_to(self._totals, site, g.sum(2).flatten(0, 1))
        else:
            self._add_output(site, visit.real_of_all(g))

    def end_of_forward(self) -> None:
        """Add what has to wait: all calls of a site, and experts in one order."""
        self._last = None
        for site in self._coverage.sites:
            parts = self._means.pop(site, [])
            if not parts:
                continue
            total = sum((x for x, _ in parts[1:]), parts[0][0])
            count = sum((n for _, n in parts[1:]), parts[0][1])
            if isinstance(count, Tensor):  # of experts, no token may have come
                some = count[:, 0] > 0
                total, count = total[some], count[some]
            self._add_rows(site, total / count)
        self._add_later()

    def end_of_backward(self) -> None:
        """Square what is squared whole: all calls of a site have been added up."""
        for site in self._coverage.sites:
            for name in site.parameters.values() if site.whole else ():
                if name in self._gradients:
                    rows = self._gradients.pop(name)
                    rows = rows[:0] if self.muted else rows
                    self.sums.add_outer(gramian_name(name), rows)
            if site in self._totals:
                self._add_output(site, self._totals.pop(site))
        self._add_later()
        self.sums.check_order()

    def blocks(self) -> dict[str, Block]:
        """Describe the block of every parameter, or pair of them."""
        found: dict[str, Block] = {}
        for site in self._coverage.sites:
            found |= blocks_of(site, self._coverage.leaders.get(site, site))
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

    def _add_rows(self, site: Site, rows: Tensor) -> None:
        self._add(site, input_name(site), rows, bias="bias" in site.parameters)

    def _add_output(self, site: Site, rows: Tensor) -> None:
        self._add(site, output_name(site), rows)

    def _add(self, site: Site, name: str, rows: Tensor, *, bias: bool = False) -> None:
        rows = rows[:0] if self.muted else rows
        if site.functional and self._dealt:  # experts come in any order
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
        for site in coverage.sites
        for name, shape in _shapes_of(site, coverage, shapes)
    }


def _shapes_of(
    site: Site, coverage: Coverage, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    if site.whole:
        for name in site.parameters.values():
            size = prod(shapes[name])
            yield gramian_name(name), (size, size)
        return
    shape = shapes[site.parameters["weight"]]
    d_out, d_in = site.layout.dims(shape if site.part is None else shape[1:])
    d_in += "bias" in site.parameters
    yield output_name(site), (d_out, d_out)
    if site not in coverage.leaders:
        dense = isinstance(site, LinearSite)
        yield input_name(site), (d_in, d_in) if dense else (d_in,)


def _whole_gradients(visit: Visit, g: Tensor) -> dict[str, Tensor]:
    """Gradient of every parameter for K cotangents of N examples, ``[K · N, …]``."""
    if len(g) == 1:
        return visit.site.gradients(visit.a, g[0])
    found = torch.vmap(visit.site.gradients, (None, 0))(visit.a, g)
    return {role: values.flatten(0, 1) for role, values in found.items()}


def _over_positions(visit: Visit) -> tuple[Tensor, Tensor | int]:
    """Sum of the inputs over an example's real positions, and how many these are."""
    if visit.mask is None:
        return visit.a.sum(1), visit.a.shape[1]
    real = visit.mask[..., None].to(visit.a.dtype)
    return (visit.a * real).sum(1), real.sum(1)


def _add_to(sums: dict[Any, Tensor], key: Site | str, value: Tensor) -> None:
    before = sums.get(key)
    sums[key] = value if before is None else before + value
