"""Kinds of modules, and the layer of each; a wrong guess does no harm: it is proved."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from torch import nn

from kfac_artifacts.capture.layers.attention import attention
from kfac_artifacts.capture.layers.base import GramianLayer, Layer
from kfac_artifacts.capture.layers.kinds import Found, Kind
from kfac_artifacts.capture.layers.linear import LinearLayer, convolution, linear
from kfac_artifacts.capture.layers.norms import norm
from kfac_artifacts.capture.layers.tables import table
from kfac_artifacts.errors import SettingsError

RULES: tuple[Callable[[nn.Module], Found], ...] = (
    linear,
    convolution,
    table,
    attention,
    norm,
)
"""One per family of layers; the first that finds something decides."""

LayerFactory: TypeAlias = Callable[[nn.Module, str, dict[str, str]], Layer | str]
"""From a module, its name, its parameters (role to name) to its layer, or a reason."""

_registered: dict[type[nn.Module], tuple[LayerFactory, Mapping[str, str]]] = {}


def register_layer(
    module_class: type[nn.Module],
    factory: LayerFactory,
    *,
    roles: Mapping[str, str] | None = None,
    replace: bool = False,
) -> None:
    """Make a kind of module known, so that its parameters are covered.

    Nothing can become wrong by it: on every model the gradients that the layer sees are
    compared with those of autograd, and a layer that sees others is left out, by name.

    Args:
        module_class: The class; subclasses are of the kind, too, unless they have one
            of their own.
        factory: Called as ``factory(module, name, parameters)``, where parameters are
            the names in the model by role. It returns a ``LinearLayer``, a
            ``GramianLayer``, or one derived from them, or else the reason why this
            module is not covered.
        roles: The module's own name of a parameter to its role, ``weight`` or
            ``bias``; parameters with other names are covered by themselves.
        replace: Whether an earlier registration of the class may be replaced.

    Raises:
        SettingsError: If the class is registered already, or no role is the weight.
    """
    if module_class in _registered and not replace:
        raise SettingsError(
            f"{module_class.__qualname__} has a layer already; replace it with "
            "replace=True"
        )
    if roles is None:
        roles = {"weight": "weight", "bias": "bias"}
    if "weight" not in roles.values():
        raise SettingsError(
            f"one parameter of {module_class.__qualname__} must have the role weight, "
            f"not only {dict(roles)}"
        )
    _registered[module_class] = factory, dict(roles)


def kind_of(module: nn.Module) -> Found:
    """Say how to make the layer of a module, or why there is none.

    Args:
        module: It holds parameters of its own.

    Returns:
        Its kind, a reason, or None if no kind is known.
    """
    for ancestor in type(module).__mro__:
        if ancestor in _registered:
            factory, roles = _registered[ancestor]
            return Kind(partial(_own_layer, factory, module), roles)
    for rule in RULES:
        found = rule(module)
        if found is not None:
            return found
    return None


def _own_layer(
    factory: LayerFactory, module: nn.Module, name: str, parameters: dict[str, str]
) -> Layer | str:
    """Make a registered layer: what it sums up must be what is proved."""
    layer = factory(module, name, dict(parameters))
    if isinstance(layer, str):
        return layer
    base = next((b for b in (LinearLayer, GramianLayer) if isinstance(layer, b)), None)
    what = f"the layer registered for {type(module).__qualname__}"
    if base is None:
        raise SettingsError(f"{what} is neither a LinearLayer nor a GramianLayer")
    proved = {"blocks", "sums", "add_input", "add_cotangents", "record"}
    proved |= {"gradients"} if base is LinearLayer else set()
    for method in sorted(proved):
        if getattr(type(layer), method, None) is not getattr(base, method, None):
            raise SettingsError(f"{what} has {method} of its own, which is not proved")
    if layer.parameters != parameters:
        raise SettingsError(
            f"{what} covers {layer.parameters}, but was given {parameters}"
        )
    return layer
