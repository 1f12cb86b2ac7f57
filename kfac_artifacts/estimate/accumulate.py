"""Accumulation: what proved sites see, summed up into factors and blocks."""

from collections.abc import Iterator

from torch import Tensor

from kfac_artifacts.artifact import Block, GramianBlock, KroneckerBlock
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.estimate.coverage import Coverage
from kfac_artifacts.estimate.passes import Visit
from kfac_artifacts.estimate.sites import LinearSite, LooseSite, Site, TableSite
from kfac_artifacts.estimate.sums import InputSum, OuterSum, RowSum
from kfac_artifacts.factors import Factor


class Accumulator:
    """Listens to passes and keeps one sum per factor.

    Args:
        coverage: The proved sites.
    """

    keeps_inputs = False

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self._inputs: dict[Site, InputSum | RowSum] = {}
        self._outputs: dict[Site, OuterSum] = {}
        self._gramians: dict[str, OuterSum] = {}
        self._pending: dict[str, Tensor] = {}
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
            return
        if isinstance(site, LinearSite):
            self._last = Visit(site, visit.call, visit.x, visit.a[:0], None)
            self._input_sum(site, visit.a).add(visit.a, visit.mask)
        elif not site.whole:
            self._row_sum(site, visit.a).add(visit.a, visit.mask)

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Add to B, or to the whole gradient of the batch's examples."""
        site = visit.site
        if site.whole:
            found = site.gradients(visit.a, g)
            for role, name in site.parameters.items():
                before = self._pending.get(name)
                value = found[role] if before is None else before + found[role]
                self._pending[name] = value
            return
        if site not in self._outputs:
            self._outputs[site] = OuterSum(g.shape[-1], g)
        rows = g[visit.a >= 0] if isinstance(site, TableSite) else g.flatten(0, 1)
        self._outputs[site].add(rows)

    def end_of_forward(self, calls: dict[Site, int]) -> None:
        """Check that every site was used as often as when it was proved."""
        self._last = None
        for site, expected in self._coverage.calls.items():
            if calls.get(site, 0) != expected:
                raise CoverageError(
                    f"{site.name} is used {calls.get(site, 0)} times in this batch, "
                    f"but {expected} times in the first; exclude it"
                )

    def end_of_backward(self) -> None:
        """Square the whole gradients: all calls of a site have been added up."""
        for name, rows in self._pending.items():
            if name not in self._gramians:
                self._gramians[name] = OuterSum(rows.shape[-1], rows)
            self._gramians[name].add(rows)
        self._pending.clear()

    def blocks(self, count: int) -> tuple[dict[str, Block], dict[str, Factor]]:
        """Turn the sums into blocks and factors.

        Args:
            count: Number of examples, times draws.

        Returns:
            Blocks by name, and their factors by name.
        """
        blocks: dict[str, Block] = {}
        factors: dict[str, Factor] = {}
        for site in self._coverage.sites:
            made = self._gramian(site, count) if site.whole else self._pair(site, count)
            for name, block, own in made:
                blocks[name] = block
                factors |= own
        return blocks, factors

    def _gramian(
        self, site: Site, count: int
    ) -> Iterator[tuple[str, Block, dict[str, Factor]]]:
        for name in site.parameters.values():
            factor = f"{name}.G"
            matrix = self._gramians[name].mean(count)
            yield name, GramianBlock(name, (factor,)), {factor: matrix}

    def _pair(
        self, site: Site, count: int
    ) -> Iterator[tuple[str, Block, dict[str, Factor]]]:
        assert isinstance(site, LinearSite | TableSite | LooseSite)  # noqa: S101 - narrows
        leader = self._coverage.leaders.get(site, site)
        a, b = f"{leader.name}.A", f"{site.name}.B"
        B = self._outputs[site].mean(count)
        own: dict[str, Factor] = {b: B}
        if leader is site:
            own[a] = self._inputs[site].mean().to(dtype=B.matrix.dtype)
        bias = site.parameters.get("bias")
        weight = site.parameters["weight"]
        terms = ((a, b),)
        yield (
            site.name,
            KroneckerBlock(weight, bias, site.layout, terms, site.part),
            own,
        )

    def _input_sum(self, site: Site, a: Tensor) -> InputSum:
        if site not in self._inputs:
            bias = "bias" in site.parameters
            self._inputs[site] = InputSum(a.shape[-1], bias=bias, like=a)
        found = self._inputs[site]
        if not isinstance(found, InputSum):
            raise TypeError(site.name)
        return found

    def _row_sum(self, site: Site, ids: Tensor) -> RowSum:
        if site not in self._inputs:
            rows = site.rows if isinstance(site, TableSite | LooseSite) else 0
            self._inputs[site] = RowSum(rows, ids.device)
        found = self._inputs[site]
        if not isinstance(found, RowSum):
            raise TypeError(site.name)
        return found
