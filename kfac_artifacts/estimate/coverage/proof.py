"""Proof of coverage: what the sites see of one example is the whole of its gradient.

The gradients that the sites reconstruct are compared with those of autograd, and of one
example the others must see nothing. This catches fused attention, ties, dead branches,
and an axis that is not what it was taken for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.errors import CoverageError, KfacError
from kfac_artifacts.estimate.coverage.settle import drop_unfit, settle
from kfac_artifacts.estimate.passes.single import Pass, requiring_gradients
from kfac_artifacts.estimate.passes.visits import Visit
from kfac_artifacts.estimate.sites.base import LinearSite, Site, TableSite
from kfac_artifacts.estimate.sites.inventory import Inventory
from kfac_artifacts.network import Batch, Network

TOLERANCES = {torch.float64: (1e-6, 1e-5), torch.float32: (1e-3, 1e-5)}
"""How far a gradient may be off, by number type: as a share of itself, and of the
largest gradient, below which a difference is rounding."""
HALF_PRECISION = (0.2, 0.02)
UNREACHED = "f does not depend on it"
UNSEEN = "f uses it without calling its module"
UNREAD = "f does not look up its rows as they are"
OUTSIDE = "f also uses it outside its module (tied or fused weights)"


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

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that are covered."""
        return {name for site in self.sites for name in site.parameters.values()}


class _Prover:
    """Compares what each site sees with the true gradient, as soon as it saw all."""

    keeps_inputs = True

    def __init__(self, true: dict[tuple[str, int | None], Tensor], largest: float):
        self.inputs: list[Visit] = []
        self.faults: dict[Site, str] = {}
        self.left: dict[Site, int] = {}  # calls whose cotangents have not come
        self._true = true
        self._largest = largest
        self._seen: dict[Site, dict[str, Tensor]] = {}

    def on_input(self, visit: Visit) -> None:
        """Keep it for the comparison of inputs."""
        self.inputs.append(visit)

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Add up the gradient of all examples; compare after the last call."""
        site = visit.site
        try:
            self._add(visit, g)
        except (RuntimeError, TypeError, ValueError, IndexError):
            self.faults[site] = "its tensors do not have the shapes of its kind"
        if visit.mask is not None and bool(g[~visit.mask].any()):
            self.faults[site] = "f depends on positions that the attention mask hides"
        self.left[site] -= 1
        if self.left[site] == 0:
            self.compare(site)

    def _add(self, visit: Visit, g: Tensor) -> None:
        seen = self._seen.setdefault(visit.site, {})
        for n in range(len(g)):
            found = visit.site.gradients(visit.a[n : n + 1], g[n : n + 1])
            for role, name in visit.site.parameters.items():
                gradient = found[role].detach()[0]
                seen[name] = seen[name] + gradient if name in seen else gradient

    def compare(self, site: Site) -> None:
        """Note why a site does not see the gradient of its parameters, if so."""
        seen = self._seen.pop(site, {})
        for name in site.parameters.values():
            actual = self._true.pop((name, site.part), None)
            fault = self._fault(site, seen.get(name), actual)
            if fault == UNREACHED and name != site.parameters["weight"]:
                continue
            if fault is not None:
                self.faults.setdefault(site, fault)

    def _fault(
        self, site: Site, seen: Tensor | None, actual: Tensor | None
    ) -> str | None:
        if seen is None:
            reached = actual is not None and bool(actual.any())
            return unseen(site) if reached else UNREACHED
        relative, negligible = TOLERANCES.get(seen.dtype, HALF_PRECISION)
        known = torch.zeros_like(seen) if actual is None else actual
        allowed = relative * known.norm() + negligible * self._largest
        if seen.shape != known.shape or not (seen - known).norm() <= allowed:
            return OUTSIDE
        return UNREACHED if actual is None else None


def unseen(site: Site) -> str:
    """Say why nothing was heard of a site that f depends on."""
    return UNREAD if isinstance(site, TableSite) else UNSEEN


def prove(network: Network, inventory: Inventory, batch: Batch) -> Coverage:
    """Find which sites hold what they promise; drop the others from the inventory.

    With a random cotangent for every example, each is pulled back alone, which shows
    where in every tensor it is (``settle``), and then all at once: what a site sees of
    them must be the gradient that autograd gives its parameters. About one gradient of
    the parameters that are asked for is held at a time.

    Args:
        network: The network; left as it was found.
        inventory: Sites to prove; those that fail move to its ``uncovered``.
        batch: Two examples.

    Returns:
        The proved sites.

    Raises:
        CoverageError: If none is left.
        KfacError: If f is not finite.
    """
    f, s, true = true_gradients(network, inventory, batch)
    if not bool(f.isfinite().all()):
        raise KfacError(
            "the model's output is not finite for the first examples; try --dtype "
            "float32 (dtype=), or look at the output map and at the data"
        )
    sizes = {name: gradient.norm().item() for name, gradient in true.items()}
    reached = {name for name, size in sizes.items() if size or bool(true[name].any())}
    largest = max(sizes.values(), default=0.0)
    prover = _Prover(_by_site(true, inventory.sites), largest)
    del true
    with requiring_gradients(network, wanted=False):
        drop_unfit(network, inventory, batch, f)
        settle(network, inventory, batch, s)
        require_sites(inventory, reached)
        passed = Pass(network, inventory.sites, batch, prover)
        prover.left |= passed.calls
        passed.backward(s)
    for site in list(inventory.sites):
        if prover.left.get(site) != 0:
            prover.compare(site)
        fault = passed.failures.get(site, prover.faults.get(site))
        if fault is not None and site in inventory.sites:
            inventory.drop(site, fault)
    require_sites(inventory, reached)
    calls = {site: passed.calls[site] for site in inventory.sites}
    return Coverage(inventory.sites, calls, leaders_of(prover.inputs, calls))


def require_sites(inventory: Inventory, reached: Collection[str] | None = None) -> None:
    """Say of what f does not depend on just that, and refuse to go on without sites.

    Args:
        inventory: The inventory.
        reached: Parameters that f depends on, once that is known.

    Raises:
        CoverageError: If the inventory has no site, with the reasons.
    """
    for name in inventory.uncovered.keys() - inventory.refused:
        if reached is not None and name not in reached:
            inventory.uncovered[name] = UNREACHED
    if not inventory.sites:
        reasons = sorted(set(inventory.uncovered.values()))
        raise CoverageError(f"no parameter can be covered: {'; '.join(reasons)}")


def true_gradients(
    network: Network, inventory: Inventory, batch: Batch
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Ask autograd for the gradient of every parameter that is asked for.

    Args:
        network: The network; left as it was found.
        inventory: What is asked for.
        batch: The examples.

    Returns:
        The value of f, a random cotangent for every example, and the gradients of what
        f depends on by name.

    Raises:
        CoverageError: If f depends on no parameter.
    """
    excluded = set(inventory.excluded)
    with requiring_gradients(network, wanted=True), torch.enable_grad():
        parameters = network.parameters()
        leaves = {n: p for n, p in parameters.items() if p.requires_grad}
        f = network(batch)
        generator = torch.Generator().manual_seed(0)
        s = torch.randn(f.shape, generator=generator).to(f)
        if not f.requires_grad:
            raise CoverageError("f does not depend on any parameter of the model")
        leaves = {n: p for n, p in leaves.items() if n not in excluded}
        grads = torch.autograd.grad(f, list(leaves.values()), s, allow_unused=True)
    found = {n: g for n, g in zip(leaves, grads, strict=True) if g is not None}
    dense = {n: g.to_dense() if g.is_sparse else g for n, g in found.items()}
    return f.detach(), s, dense


def _by_site(
    true: dict[str, Tensor], sites: Sequence[Site]
) -> dict[tuple[str, int | None], Tensor]:
    """The true gradients that sites are to see, flattened; of a stack, its slices."""
    return {
        (name, site.part): true[name][... if site.part is None else site.part].flatten()
        for site in sites
        for name in site.parameters.values()
        if name in true
    }


def leaders_of(visits: Sequence[Visit], calls: dict[Site, int]) -> dict[Site, Site]:
    """Find linear sites that come right after another one with the very same input.

    Args:
        visits: All visits of a pass, in order, with their inputs.
        calls: How often each site was used; only those used once share.

    Returns:
        Each such site, with the first one that has its input.
    """
    leaders: dict[Site, Site] = {}
    leader: LinearSite | None = None
    last = visits[0]
    for visit in visits:
        site = visit.site
        if not isinstance(site, LinearSite) or calls.get(site) != 1:
            leader = None
        elif (
            leader is not None
            and visit.x is last.x
            and ("bias" in site.parameters) == ("bias" in leader.parameters)
            and visit.a.shape == last.a.shape
            and site.geometry == leader.geometry
        ):
            leaders[site] = leader
        else:
            leader, last = site, visit
    return leaders
