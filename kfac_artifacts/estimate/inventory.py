"""Inventory: which site each parameter of a module belongs to, by kind of module."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from kfac_artifacts.artifact import Layout
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.estimate.experts import functional_sites
from kfac_artifacts.estimate.refusals import check_differentiable, refusals
from kfac_artifacts.estimate.sites import (
    LinearSite,
    LooseSite,
    NormSite,
    Site,
    TableSite,
)

CONV1D = "transformers.pytorch_utils.Conv1D"
MAX_GRAMIAN = 8192
"""Largest vector whose Gramian is kept whole: 128 MiB packed."""


@dataclass
class Inventory:
    """Sites to cover, and every other parameter with the reason why not.

    Attributes:
        sites: The sites, in the order of the modules.
        excluded: Parameters left out on request.
        uncovered: Parameters left out for a reason.
        refused: Those of them that no task vector can change.
    """

    sites: list[Site] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    uncovered: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def drop(self, site: Site, reason: str) -> None:
        """Take a site out, and all other slices of its parameters; report them."""
        names = set(site.parameters.values())
        self.sites = [s for s in self.sites if names.isdisjoint(s.parameters.values())]
        self.uncovered |= dict.fromkeys(site.parameters.values(), reason)


def take_inventory(
    module: nn.Module, *, only: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> Inventory:
    """Assign every parameter of a module to a site, or say why there is none.

    Args:
        module: The pretrained module.
        only: Patterns of parameter names (``*`` and ``?``) to keep; empty keeps all.
        exclude: Patterns of parameter names to leave out.

    Returns:
        The inventory; nothing in it is proved yet.

    Raises:
        CoverageError: If a pattern matches no parameter, or the gradient of f is not
            that which autograd finds.
    """
    check_differentiable(module)
    names = {id(p): name for name, p in module.named_parameters()}
    _check_patterns((*only, *exclude), set(names.values()))
    inventory = Inventory()
    for name in names.values():
        wanted = not only or any(fnmatchcase(name, pattern) for pattern in only)
        if not wanted or any(fnmatchcase(name, pattern) for pattern in exclude):
            inventory.excluded.append(name)
    left_out = set(inventory.excluded)
    owners: dict[tuple[str, int | None], Site] = {}
    for path, child in module.named_modules(remove_duplicate=True):
        for site in _sites(path, child, names, left_out, inventory):
            _add(site, child, owners, inventory)
    owned = {name for name, _ in owners}
    for name in names.values():
        if name not in {*owned, *left_out, *inventory.uncovered}:
            reason = (
                "its module shares a weight with a module that has other parameters"
            )
            inventory.uncovered[name] = reason
    return inventory


def _check_patterns(patterns: tuple[str, ...], names: set[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise CoverageError(
                f"no parameter is called {pattern!r}; there are, for example, "
                f"{', '.join(sorted(names)[:3])}"
            )


def _add(
    site: Site,
    child: nn.Module,
    owners: dict[tuple[str, int | None], Site],
    inventory: Inventory,
) -> None:
    """Add a site, or join it with the one that has the same parameters already."""
    first = owners.get((site.parameters["weight"], site.part))
    if first is None:
        inventory.sites.append(site)
        own = site.parameters.values()
        owners |= dict.fromkeys([(name, site.part) for name in own], site)
        first = site
    elif type(first) is not type(site) or first.parameters != site.parameters:
        return  # the proof finds that the first site does not see every use
    first.modules.append(child)


def _sites(
    path: str,
    child: nn.Module,
    names: dict[int, str],
    left_out: set[str],
    inventory: Inventory,
) -> Iterator[Site]:
    """Make the site of a module, or one for each parameter that it holds itself."""
    own = {k: names[id(p)] for k, p in child.named_parameters(recurse=False)}
    refused = {own[k]: reason for k, reason in refusals(child).items()}
    inventory.uncovered |= {n: r for n, r in refused.items() if n not in left_out}
    inventory.refused |= refused.keys()
    left_out = left_out | refused.keys()
    wanted = {k: name for k, name in own.items() if name not in left_out}
    if not wanted:
        return
    make = _site_of(child)
    if make is None:
        functional = functional_sites(path, child, wanted)
        yield from functional
        found = {name for site in functional for name in site.parameters.values()}
        for name, parameter in child.named_parameters(recurse=False):
            if name in wanted and wanted[name] not in found:
                yield from _loose(wanted[name], parameter, inventory)
    elif "weight" not in wanted:
        reason = "a bias is covered together with its weight, which is excluded"
        inventory.uncovered |= dict.fromkeys(wanted.values(), reason)
    else:
        yield make(path or wanted["weight"], wanted)  # a lone module has no path


def _loose(name: str, parameter: nn.Parameter, inventory: Inventory) -> Iterator[Site]:
    shape = tuple(parameter.shape)
    vectors = len(shape) == 1 or (len(shape) == 3 and shape[0] == 1)
    if name in inventory.uncovered:
        return
    if not vectors:
        inventory.uncovered[name] = (
            f"a parameter of shape {list(shape)} that is no module's weight"
        )
    elif shape[-1] > MAX_GRAMIAN:
        inventory.uncovered[name] = f"its Gramian would be of size {shape[-1]}"
    else:
        yield LooseSite(name, shape)


def _site_of(child: nn.Module) -> Callable[[str, dict[str, str]], Site] | None:
    """How to make the site of a module of a known kind; None for any other."""
    kind = f"{type(child).__module__}.{type(child).__qualname__}"
    if isinstance(child, nn.Linear) and type(child).forward is nn.Linear.forward:
        return partial(LinearSite, layout=Layout.ROWS)
    if kind == CONV1D:
        return partial(LinearSite, layout=Layout.COLUMNS)
    if isinstance(child, nn.Conv2d) and _can_unfold(child):
        return partial(LinearSite, layout=Layout.ROWS, convolution=child)
    if isinstance(child, nn.Embedding) and child.max_norm is None:
        shape = (child.num_embeddings, child.embedding_dim)
        return partial(TableSite, shape=shape)
    normalise = _normalisation(child)
    if normalise is not None:
        return partial(NormSite, normalise=normalise)
    return None


def _can_unfold(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.padding_mode == "zeros" and conv.padding != "same"


def _normalisation(child: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """``x -> x̂`` of a norm over the last axis, by class; proved before it is used."""
    plain = type(child).forward is nn.LayerNorm.forward
    if isinstance(child, nn.LayerNorm) and plain and len(child.normalized_shape) == 1:
        width = list(child.normalized_shape)
        return partial(layer_norm, normalized_shape=width, eps=child.eps)
    names = {name for name, _ in child.named_parameters(recurse=False)}
    eps = getattr(child, "variance_epsilon", getattr(child, "eps", None))
    kind = type(child).__name__
    if names == {"weight"} and kind.endswith(("RMSNorm", "T5LayerNorm")):
        weight: Tensor = child.weight  # type: ignore[assignment]
        return partial(rms_norm, normalized_shape=list(weight.shape), eps=eps)
    return None
