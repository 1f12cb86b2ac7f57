"""Inventory: which layer each parameter of a module belongs to, by kind of module."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.layers.experts import functional_layers
from kfac_artifacts.capture.layers.kinds import MAX_GRAMIAN
from kfac_artifacts.capture.layers.loose import loose_layer
from kfac_artifacts.capture.layers.registry import kind_of
from kfac_artifacts.capture.layers.unsupported import check_differentiable, refusals
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.network import Network

WITHOUT_WEIGHT = "a bias is covered together with its weight, which is excluded"
BEHIND = "it belongs to a module behind the encoder"

A_TABLE = (
    "a table, whose A would be the exact number of times that the data use each row; "
    "covered with tables=True, --include-tables"
)

OUTPUT_TABLE = (
    "the output table of a language model: its B would be of one row and column for "
    "each token; covered with tables=True, --include-tables"
)


@dataclass
class Inventory:
    """Layers to cover, and every other parameter with the reason why not.

    Attributes:
        layers: The layers, in the order of the modules.
        excluded: Parameters left out on request.
        uncovered: Parameters left out for a reason.
        refused: Those of them that no task vector can change.
    """

    layers: list[Layer] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    uncovered: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def drop(self, layer: Layer, reason: str) -> None:
        """Take a layer out, and all other slices of its parameters; report them."""
        names = set(layer.parameters.values())
        self.layers = [
            s for s in self.layers if names.isdisjoint(s.parameters.values())
        ]
        self.uncovered |= dict.fromkeys(layer.parameters.values(), reason)


def take_inventory(
    module: nn.Module,
    *,
    only: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    tables: bool = True,
    forward_only: bool = False,
) -> Inventory:
    """Assign every parameter of a module to a layer, or say why there is none.

    Args:
        module: The pretrained module.
        only: Patterns of parameter names (``*`` and ``?``) to keep; empty keeps all.
        exclude: Patterns of parameter names to leave out.
        tables: Whether tables that the data look up by number are covered, and the
            output tables of language models, whose outputs are scores of all tokens.
        forward_only: Whether nothing is pulled back, so that outputs do not matter.

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
    inventory.excluded = [n for n in names.values() if not _fits(n, only, exclude)]
    left_out = set(inventory.excluded)
    owners: dict[tuple[str, int | None], Layer] = {}
    lent = _lent_biases(module)
    for path, child in module.named_modules(remove_duplicate=True):
        for layer in _layers(path, child, names, (left_out, lent), inventory):
            _add(layer, child, owners, inventory)
    owned = {name for name, _ in owners}
    for name in names.values():
        if name not in {*owned, *left_out, *inventory.uncovered}:
            reason = (
                "its module shares a weight with a module that has other parameters"
            )
            inventory.uncovered[name] = reason
    if not tables:
        scoring = None if forward_only else _output_table(module)
        _drop_tables(inventory, names.get(id(scoring)))
    return inventory


def _lent_biases(module: nn.Module) -> set[str]:
    """Biases of linear maps that another module holds, too, and does not use."""
    names = {id(p): name for name, p in module.named_parameters()}
    held = {
        f"{path}.bias".lstrip("."): names.get(id(child.bias))
        for path, child in module.named_modules()
        if isinstance(child, nn.Linear)
    }
    # there is no name where there is no bias, or one that is computed from parameters
    return {name for own, name in held.items() if name is not None and name != own}


def _output_table(module: nn.Module) -> nn.Parameter | None:
    """The weight by which a language model of ``transformers`` scores all tokens."""
    find = getattr(module, "get_output_embeddings", None)
    return getattr(find() if callable(find) else None, "weight", None)


def _drop_tables(inventory: Inventory, scoring: str | None) -> None:
    for layer in list(inventory.layers):
        if layer.shows_rows:
            inventory.drop(layer, A_TABLE)
        elif layer.parameters["weight"] == scoring:
            inventory.drop(layer, OUTPUT_TABLE)


def _fits(name: str, only: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    wanted = not only or any(fnmatchcase(name, pattern) for pattern in only)
    return wanted and not any(fnmatchcase(name, pattern) for pattern in exclude)


def constants_of(network: Network) -> dict[str, str]:
    """Weights of f that are none of the network, with the reason why not covered."""
    return dict.fromkeys(network.output_map.constants, BEHIND)


def _check_patterns(patterns: tuple[str, ...], names: set[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise CoverageError(
                f"no parameter is called {pattern!r}; there are, for example, "
                f"{', '.join(sorted(names)[:3])}"
            )


def _add(
    layer: Layer,
    child: nn.Module,
    owners: dict[tuple[str, int | None], Layer],
    inventory: Inventory,
) -> None:
    """Add a layer, or join it with the one that has the same parameters already."""
    first = owners.get((layer.parameters["weight"], layer.part))
    if first is None:
        inventory.layers.append(layer)
        own = layer.parameters.values()
        owners |= dict.fromkeys([(name, layer.part) for name in own], layer)
        first = layer
    elif type(first) is not type(layer) or first.parameters != layer.parameters:
        return  # the proof finds that the first layer does not see every use
    first.modules.append(child)


def _layers(
    path: str,
    child: nn.Module,
    names: dict[int, str],
    besides: tuple[set[str], set[str]],
    inventory: Inventory,
) -> Iterator[Layer]:
    """Make the layer of a module, or one for each parameter that it holds itself.

    Besides are parameters that are left out, and those that another module uses.
    """
    left_out, lent = besides
    own = dict(child.named_parameters(recurse=False))
    refused = {names[id(own[k])]: reason for k, reason in refusals(child).items()}
    inventory.uncovered |= {n: r for n, r in refused.items() if n not in left_out}
    inventory.refused |= refused.keys()
    left_out = left_out | refused.keys()
    wanted = {k: names[id(p)] for k, p in own.items() if names[id(p)] not in left_out}
    if not wanted:
        return
    kind = kind_of(child)
    if isinstance(kind, str):
        inventory.uncovered |= dict.fromkeys(wanted.values(), kind)
        return
    if kind is not None:
        roles = {role: wanted.pop(k) for k, role in kind.roles.items() if k in wanted}
        made: Layer | str = WITHOUT_WEIGHT
        if "weight" in roles:
            made = kind.make(path or roles["weight"], roles)  # a lone one has no path
        if not isinstance(made, str):
            sizes = {names[id(p)]: p.numel() for p in own.values()}
            made = _too_large(made, sizes) or made
        if isinstance(made, str):
            inventory.uncovered |= dict.fromkeys(roles.values(), made)
        else:
            yield made
    functional = functional_layers(path, child, wanted) if kind is None else []
    yield from functional
    inside = {name for layer in functional for name in layer.parameters.values()}
    inside |= lent
    for key, name in [(k, n) for k, n in wanted.items() if n not in inside]:
        yield from _loose(name, own[key], inventory)


def _loose(name: str, parameter: nn.Parameter, inventory: Inventory) -> Iterator[Layer]:
    if name in inventory.uncovered:
        return
    layer = loose_layer(name, tuple(parameter.shape))
    reason = _too_large(layer, {name: parameter.numel()})
    if reason is not None:
        inventory.uncovered[name] = reason
    else:
        yield layer


def _too_large(layer: Layer, sizes: Mapping[str, int]) -> str | None:
    """Say why the Gramian of a layer cannot be kept, if so."""
    size = max(sizes[name] for name in layer.parameters.values())
    if layer.has_gramian and size > MAX_GRAMIAN:
        return f"its Gramian would be of size {size}"
    return None
