"""Proof of coverage: what the sites see of one example is the whole of its gradient.

For one cotangent at one example, the gradients that the sites reconstruct are compared
with those of autograd, and other examples of the batch must see nothing. This catches
fused attention, ties, dead branches, and an axis that is not what it was taken for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kfac_artifacts.errors import CoverageError
from kfac_artifacts.estimate.inventory import Inventory
from kfac_artifacts.estimate.passes import Pass, Visit, requiring_gradients
from kfac_artifacts.estimate.sites import LinearSite, LooseSite, Site, TableSite
from kfac_artifacts.network import Batch, Network

TOLERANCES = {torch.float64: (1e-6, 1e-5), torch.float32: (1e-3, 1e-5)}
"""How far a gradient may be off, by number type: as a share of itself, and of the
largest gradient, below which a difference is rounding."""
HALF_PRECISION = (0.2, 0.02)
UNREACHED = "f does not depend on it"


@dataclass
class Coverage:
    """What was proved: sites in use, their number of calls, and who shares an input.

    Attributes:
        sites: Sites that are covered.
        calls: How often each is used in a forward pass.
        leaders: Sites that have the input of another one, and that one.
    """

    sites: list[Site]
    calls: dict[Site, int]
    leaders: dict[Site, Site]


@dataclass
class _Prover:
    """Collects what the sites see."""

    keeps_inputs = True
    gradients: dict[tuple[str, int | None], Tensor] = field(default_factory=dict)
    inputs: list[Visit] = field(default_factory=list)
    misfits: set[Site] = field(default_factory=set)

    def on_input(self, visit: Visit) -> None:
        self.inputs.append(visit)

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        try:
            found = visit.site.gradients(visit.a, g)
        except RuntimeError:  # shapes that are not those of its kind
            self.misfits.add(visit.site)
            return
        for role, name in visit.site.parameters.items():
            key, gradient = (name, visit.site.part), found[role].detach()
            self.gradients[key] = self.gradients.get(key, 0) + gradient


def prove(network: Network, inventory: Inventory, batch: Batch) -> Coverage:
    """Find which sites hold what they promise; drop the others from the inventory.

    Args:
        network: The network; left as it was found.
        inventory: Sites to prove; those that fail move to its ``uncovered``.
        batch: Two examples.

    Returns:
        The proved sites.

    Raises:
        CoverageError: If none is left.
    """
    f, true = _true_gradients(network, batch)
    _drop_rigid(network, inventory, batch, f)
    prover = _Prover()
    with requiring_gradients(network, wanted=False):
        passed = Pass(network, inventory.sites, batch, prover)
        for site, reason in passed.failures.items():
            inventory.drop(site, reason)
        _require_sites(inventory)
        passed.backward(_first_only(f))
    largest = max(g.norm().item() for g in true.values())
    for name in inventory.uncovered.keys() - inventory.refused:
        if not _reached(true.get(name)):
            inventory.uncovered[name] = UNREACHED
    for site in list(inventory.sites):
        fault = _fault(site, prover, true, largest)
        if fault is not None and site in inventory.sites:
            inventory.drop(site, fault)
    _require_sites(inventory)
    sites = inventory.sites
    calls = {site: passed.calls[site] for site in sites}
    return Coverage(sites, calls, _leaders(prover.inputs, calls))


def _require_sites(inventory: Inventory) -> None:
    if not inventory.sites:
        reasons = sorted(set(inventory.uncovered.values()))
        raise CoverageError(f"no parameter can be covered: {'; '.join(reasons)}")


def _first_only(f: Tensor) -> Tensor:
    """A cotangent at the first example, none at the others."""
    generator = torch.Generator().manual_seed(0)
    s = torch.zeros_like(f)
    s[0] = torch.randn(f.shape[1], generator=generator).to(s)
    return s


def _true_gradients(network: Network, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    parameters = network.parameters()
    with requiring_gradients(network, wanted=True), torch.enable_grad():
        leaves = {n: p for n, p in parameters.items() if p.requires_grad}
        f = network(batch)
        if not f.requires_grad:
            raise CoverageError("f does not depend on any parameter of the model")
        grads = torch.autograd.grad(
            f, list(leaves.values()), _first_only(f), allow_unused=True
        )
    pairs = zip(leaves, grads, strict=True)
    return f.detach(), {n: g.flatten() for n, g in pairs if g is not None}


class _Deaf:
    """Listens to nothing."""

    keeps_inputs = False

    def on_input(self, visit: Visit) -> None:
        """Ignore it."""

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Ignore it."""


def _drop_rigid(
    network: Network, inventory: Inventory, batch: Batch, f: Tensor
) -> None:
    """Drop what all examples share if they cannot have copies of their own."""
    shared = [s for s in inventory.sites if isinstance(s, LooseSite | TableSite)]
    for site in shared:
        try:
            with torch.no_grad(), requiring_gradients(network, wanted=False):
                same = torch.allclose(
                    Pass(network, [site], batch, _Deaf()).f, f, rtol=1e-2, atol=1e-4
                )
        except (RuntimeError, ValueError, IndexError, TypeError):
            same = False
        if not same:
            inventory.drop(site, "the model does not use it once per example")


def _fault(
    site: Site, prover: _Prover, true: dict[str, Tensor], largest: float
) -> str | None:
    """Say why a site does not see the gradient of its parameters, if so."""
    if site in prover.misfits:
        return "its tensors do not have the shapes of its kind"
    dtype = next(iter(true.values())).dtype
    relative, negligible = TOLERANCES.get(dtype, HALF_PRECISION)
    for name in site.parameters.values():
        seen, actual = prover.gradients.get((name, site.part)), true.get(name)
        reached = _reached(actual)
        if seen is None or actual is None:
            if name != site.parameters["weight"] and not reached:
                continue
            if reached:
                return "f uses it without calling its module"
            return UNREACHED
        actual = actual.view(-1, seen.shape[1])[site.part or 0]
        allowed = relative * actual.norm() + negligible * largest
        if not seen[1:].norm() <= allowed:
            return "the first axis of its input is not the batch"
        if not (seen.sum(0) - actual).norm() <= allowed:
            return "f also uses it outside its module (tied or fused weights)"
    return None


def _reached(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.norm() > 0)


def _leaders(visits: Sequence[Visit], calls: dict[Site, int]) -> dict[Site, Site]:
    """Linear sites that come right after another one with the very same input."""
    leaders: dict[Site, Site] = {}
    last: Visit | None = None
    for visit in visits:
        site = visit.site
        if not isinstance(site, LinearSite) or calls.get(site) != 1:
            last = None
        elif (
            last is not None
            and visit.x is last.x
            and ("bias" in site.parameters) == ("bias" in last.site.parameters)
            and visit.a.shape == last.a.shape
        ):
            leaders[site] = last.site
        else:
            last = visit
    return leaders
