"""Linear maps that a module applies by function: experts in a stack, and routers.

transformers keep the experts of a mixture in stacked parameters ``[E, d_out, d_in]``
and apply ``weight[e]`` to the tokens that are routed to expert e; a router applies its
``weight`` to every token. No module is called for such a map, so its uses are noted
from inside the forward pass of the module that owns the parameters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from kfac_artifacts.artifact import Layout
from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.layers.linear import LinearLayer
from kfac_artifacts.capture.layers.routing import Places, Tokens
from kfac_artifacts.kernels import forwards_replaced, holds_experts
from kfac_artifacts.torch_private import getter

PRODUCTS = (linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)
SAME = (
    *(Tensor.to, Tensor.type, Tensor.float),
    *(getter(Tensor.T), getter(Tensor.mT), Tensor.t, torch.t),
    *(Tensor.transpose, torch.transpose),
)
"""What a weight may go through before it is applied: as ``x @ W.T``, mostly."""
NAMES = ("Router", "Gate", "Linear")
"""What classes of linear maps are called; the proof tells whether they are."""
Report = Callable[[Layer, Tensor, Tensor, Tensor], Tensor]
"""Told of a layer's input, mask and output, all canonical; gives the output back."""


def functional_layers(
    path: str, module: nn.Module, wanted: Mapping[str, str]
) -> list[LinearLayer]:
    """Make the layers of a module of no known kind that owns weights of linear maps.

    Args:
        path: Name of the module.
        module: The module.
        wanted: Names of its parameters, by their names in the module.

    Returns:
        A layer for its matrix ``weight``, and one for every slice of every stack if it
        holds experts; none for other parameters. Nothing is proved yet.
    """
    own = {k: p for k, p in module.named_parameters(recurse=False) if k in wanted}
    if not holds_experts(module):
        return _matrix(path, module, own, wanted)
    stacks = [key for key, parameter in own.items() if parameter.dim() == 3]
    transposed = getattr(module, "is_transposed", False)
    layout = Layout.COLUMNS if transposed else Layout.ROWS
    layers = []
    for key in stacks:
        bias = f"{key}_bias"
        roles = {"weight": wanted[key]} | (
            {"bias": wanted[bias]} if bias in own else {}
        )
        stack = f"{path}.{key}" if path else key
        for part in range(len(own[key])):
            layer = LinearLayer(f"{stack}.{part}", roles, layout)
            layer.functional, layer.part = True, part
            layers.append(layer)
    return layers


def _matrix(
    path: str, module: nn.Module, own: Mapping[str, Tensor], wanted: Mapping[str, str]
) -> list[LinearLayer]:
    if "weight" not in own or own["weight"].dim() != 2:
        return []
    if not (
        isinstance(module, nn.Linear) or any(w in type(module).__name__ for w in NAMES)
    ):
        return []
    roles = {k: wanted[k] for k in ("weight", "bias") if k in own}
    layer = LinearLayer(path or wanted["weight"], roles, Layout.ROWS)
    layer.functional = True
    return [layer]


@contextmanager
def listening_to_products(
    layers: Sequence[Layer],
    parameters: Mapping[str, Tensor],
    tokens: Callable[[Tensor], Tokens],
    report: Report,
    failures: dict[Layer, str],
) -> Iterator[None]:
    """Listen to the functional layers among some while a forward pass runs.

    Args:
        layers: The layers; those that are modules of their own are left alone.
        parameters: The parameters of the network by name.
        tokens: How the tokens of a module's input belong to examples.
        report: Told of every use; what it returns takes the place of the output.
        failures: Is told which layers cannot be listened to, and why.

    Yields:
        Nothing; the modules are left as they were found.
    """
    owners: dict[nn.Module, list[LinearLayer]] = {}
    for layer in layers:
        if isinstance(layer, LinearLayer) and layer.functional:
            for module in layer.modules:
                owners.setdefault(module, []).append(layer)
    forwards = {}
    for module, own in owners.items():
        keys = {id(p): key for key, p in module.named_parameters(recurse=False)}
        named = {s: keys[id(parameters[s.parameters["weight"]])] for s in own}
        listen = partial(
            _ProductListener, tokens=tokens, report=report, failures=failures
        )
        forwards[module] = partial(
            _run_listening, module, module.forward, named, listen
        )
    with forwards_replaced(forwards):
        yield


def _run_listening(
    module: nn.Module,
    run: Callable[..., Any],
    named: Mapping[LinearLayer, str],
    listen: Callable[..., "_ProductListener"],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a module's forward pass, in which its layers are listened to."""
    # sharded weights are whole only now
    weights = {layer: getattr(module, key) for layer, key in named.items()}
    listener = listen(weights, x=args[0] if args else next(iter(kwargs.values())))
    with listener:
        out = run(*args, **kwargs)
    idle = listener.report_idle_experts()
    return out + idle if idle is not None else out


class _ProductListener(TorchFunctionMode):
    """Reports the products with known weights, or slices of them, in one call."""

    def __init__(
        self,
        weights: Mapping[LinearLayer, Tensor],
        tokens: Callable[[Tensor], Tokens],
        report: Report,
        failures: dict[Layer, str],
        x: Tensor,
    ) -> None:
        super().__init__()
        self._weights, self._tokens, self._x = weights, tokens(x), x
        self._report, self._failures = report, failures
        self._routed: Tensor | None = None  # the rows of x that were taken last
        self._slices = {(id(w), s.part): s for s, w in weights.items()}
        self._known = {id(w): (w, s) for s, w in weights.items() if s.part is None}
        self._reportd: set[LinearLayer] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do what is asked, and report it."""
        result = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__:
            self._on_item(args[0], args[1], result)
        elif func in SAME and args and id(args[0]) in self._known:
            _, layer = self._known[id(args[0])]
            self._known[id(result)] = (result, layer)
        elif func in PRODUCTS and len(args) > 1 and id(args[1]) in self._known:
            _, layer = self._known[id(args[1])]
            return self._on_product(layer, args[0], result)
        return result

    def _on_item(self, of: Tensor, index: Any, result: Tensor) -> None:
        """Note which expert's slice is taken, or which rows of the input."""
        single = isinstance(index, int) or (
            isinstance(index, Tensor) and index.dim() == 0
        )
        if single and (id(of), int(index)) in self._slices:
            self._known[id(result)] = (result, self._slices[id(of), int(index)])
        elif of is self._x:
            rows = index if isinstance(index, Tensor) and index.dim() == 1 else None
            self._routed = rows

    def _on_product(self, layer: LinearLayer, a: Tensor, z: Tensor) -> Tensor:
        self._reportd.add(layer)
        whole = a if layer.part is None else self._x
        fault = self._tokens.fault(whole)
        if layer.part is not None and (
            self._routed is None or len(self._routed) != len(a)
        ):
            fault = "its rows are not those that were taken from its module's input"
        if fault is not None:
            self._failures[layer] = fault
            return z
        real = self._tokens.real(whole)
        if self._routed is None or layer.part is None:
            a, full = self._tokens.unfold(a), self._tokens.unfold(z)
            seen = self._report(layer, a, real, full)
            # a view that is changed in place takes its gradient past what it is of
            return seen if seen.shape == z.shape else seen.reshape(z.shape)
        places = Places.of(self._routed, *real.shape)
        mask = places.put(real.flatten()[self._routed])
        return places.take(self._report(layer, places.put(a), mask, places.put(z)))

    def report_idle_experts(self) -> Tensor | None:
        """Report the experts that no token has reached: their cotangent is zero.

        Returns:
            A zero that depends on what they would put out; None if all were reached.
        """
        total: Tensor | None = None
        for layer, weight in self._weights.items():
            if layer.part is None or layer in self._reportd:
                continue
            d_out, d_in = layer.layout.dims(tuple(weight.shape[1:]))
            a, z = (self._x.new_zeros(self._tokens.count, 1, d) for d in (d_in, d_out))
            unreal = torch.zeros(a.shape[:2], dtype=torch.bool, device=a.device)
            idle = 0 * self._report(layer, a, unreal, z).sum()
            total = idle if total is None else total + idle
        return total
