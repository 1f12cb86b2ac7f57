"""One forward pass and its backward passes, in which every layer is listened to.

Parameters are frozen, so a backward pass reaches activations only. The first tensors
that layers put out are the leaves of the graph: nothing before them is differentiated.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kfac_artifacts.capture.batched_vjp import can_be_batched, leave, vjp
from kfac_artifacts.capture.encoder_decoder import Stages
from kfac_artifacts.capture.events import (
    Listener,
    ListenerToSeveral,
    Visit,
)
from kfac_artifacts.capture.layers.attention import explicit_attention
from kfac_artifacts.capture.layers.base import Layer, LooseParameter, TableLayer
from kfac_artifacts.capture.layers.batch_layout import Order, arrange, fits, possible
from kfac_artifacts.capture.layers.copies import Copies
from kfac_artifacts.capture.layers.experts import listening
from kfac_artifacts.capture.layers.lookups import listening_to_lookups
from kfac_artifacts.capture.layers.quantised import kept_for_gradients
from kfac_artifacts.capture.layers.routing import Tokens
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.kernels import running_experts_one_by_one
from kfac_artifacts.network import Batch, Network


class Pass:
    """A forward pass over one batch, and any number of backward passes after it.

    Attributes:
        f: The output map's value, ``[N, C]``.
        largest: Numbers in the largest output of a layer.
        calls: How often each layer was used.
        failures: Layers whose input breaks the contract of ``layers``, and how.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer],
        batch: Batch,
        listener: Listener,
    ) -> None:
        self.calls: Counter[Layer] = Counter()
        self.failures: dict[Layer, str] = {}
        self.largest = 1
        self._several: int | None = None  # how many come back at once
        self._muted = False
        self._leaves: list[Tensor] = []
        self._handles: list[RemovableHandle] = []
        self._listener = listener
        self._stages = Stages(network.mask(batch))
        self._count = len(next(iter(batch.values())))
        parameters = network.parameters()
        copies = {
            layer.name: self._copies(layer, parameters[layer.name])
            for layer in layers
            if isinstance(layer, LooseParameter)
        }
        with ExitStack() as stack:
            projections = stack.enter_context(explicit_attention(network.module))
            for layer in layers:
                inside = (
                    isinstance(layer, LooseParameter | TableLayer) or layer.functional
                )
                for module in [] if inside else layer.modules:
                    place = projections.get(module, module)
                    hook = self._hook(layer)
                    handle = place.register_forward_hook(hook, with_kwargs=True)
                    stack.callback(handle.remove)
            heard = listening(
                layers, parameters, self._tokens, self._hear, self.failures
            )
            stack.enter_context(heard)
            stack.enter_context(listening_to_lookups(layers, self._look_up))
            stack.enter_context(self._stages.following(network.module))
            stack.enter_context(torch.enable_grad())
            self.f = network.functional_call(copies, batch)
        for layer in layers:
            if isinstance(layer, LooseParameter):
                layer.decisions.end()

    def backward(self, s: Tensor, *, last: bool = True) -> None:
        """Pull one cotangent per example back through the network.

        Args:
            s: ``[N, C]``.
            last: Whether the graph may be freed.

        Raises:
            CoverageError: If no layer was reached.
        """
        self._check_reached()
        torch.autograd.grad(
            self.f, self._leaves, s, retain_graph=not last, allow_unused=True
        )
        if last:
            self.close()

    def backward_several(self, S: Tensor, *, last: bool = True) -> None:
        """Pull K cotangents per example back at once; see ``takes_several``.

        Args:
            S: ``[K, N, C]``.
            last: Whether the graph may be freed.

        Raises:
            CoverageError: If no layer was reached.
        """
        self._check_reached()
        self._several = len(S)
        vjp(self.f, self._leaves, S, retain=not last)
        self._several = None
        if last:
            self.close()

    def takes_several(self) -> bool:
        """Whether several cotangents can be pulled back at once; tries it, unheard."""
        self._check_reached()
        self._muted = True
        try:
            return can_be_batched(self.f, self._leaves)
        finally:
            self._muted = False

    def _check_reached(self) -> None:
        if not self._leaves or not self.f.requires_grad:
            raise CoverageError("f does not depend on any parameter that was asked for")

    def close(self) -> None:
        """Stop listening: hooks and graph hold each other, and no collector sees it."""
        for handle in self._handles:
            handle.remove()

    def _copies(self, layer: LooseParameter, parameter: Tensor) -> Tensor:
        copies = layer.copies(parameter, self._count)
        self._leaves.append(copies)
        rows = layer.row_numbers(self._count, parameter.device)
        visit = Visit(layer, self._call(layer), copies, rows, None, None, Order.FIRST)
        self._listen(visit, copies)
        own = copies.clone().reshape(self._count, *layer.shape)
        return Copies(own, layer.decisions.begin())

    def _hook(self, layer: Layer) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], z: Any
        ) -> Any:
            x = args[0] if args else next(iter(kwargs.values()))
            return self._use(layer, self._call(layer), x, z)

        return hook

    def _look_up(self, layer: TableLayer, numbers: Tensor, rows: Tensor) -> Tensor:
        """A use of a table inside of its module."""
        call = self._call(layer)
        return self._use(layer, call, *layer.spread(call, numbers, rows, self._count))

    def _use(self, layer: Layer, call: int, x: Tensor, z: Tensor) -> Tensor:
        try:
            visit = self._visit(layer, call, x)
        except CoverageError as error:
            self.failures[layer] = str(error)
            return z
        return self._enter(visit, z)

    def _tokens(self, x: Tensor) -> Tokens:
        return Tokens(self._count, self._stages.masks_of(x).mask)

    def _hear(self, layer: Layer, a: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        """A use of a layer inside of its module; everything is canonical."""
        rows = mask.flatten().nonzero()[:, 0]
        visit = Visit(layer, self._call(layer), a, a.detach(), mask, rows, Order.FIRST)
        return self._enter(visit, z)

    def _enter(self, visit: Visit, z: Tensor) -> Tensor:
        if not z.requires_grad:
            self._leaves.append(z.detach().requires_grad_())
            z = self._leaves[-1].clone()  # a leaf may not be changed in place
        self._listen(visit, z)
        return z

    def _visit(self, layer: Layer, call: int, x: Tensor) -> Visit:
        """Look at an input: where its examples are, and which positions are real."""
        order = layer.orders.get(call)
        table = isinstance(layer, TableLayer)
        a = layer.inputs(x.detach()) if x.dim() > 1 or table else x
        lead = a.shape[:-1] if layer.arranged else a.shape[:1]
        allowed = possible(lead, self._count) if lead else []
        if not layer.arranged:
            allowed = [o for o in allowed if o is Order.FIRST]
        if not (allowed if order is None else fits(order, lead, self._count)):
            raise CoverageError(
                f"the batch of {self._count} is nowhere in its input {list(x.shape)}"
                if order is None
                else f"the batch of {self._count} is not where it was in its input "
                f"{list(x.shape)}: {order.value}"
            )
        if order is None or not layer.arranged:
            return Visit(layer, call, x, a, None, None, order)
        a = arrange(a, order, self._count)
        mask, rows = None, None
        if not layer.whole:
            mask, rows = self._stages.masks_of(x).of(a.shape[1:-1], x.shape)
        a = positions_first(a)
        a = a[..., 0] if table else a
        return Visit(layer, call, x, a, mask, rows, order)

    def _listen(self, visit: Visit, z: Tensor) -> None:
        self._listener.on_input(visit)
        self.largest = max(self.largest, z.numel())
        layer = visit.layer
        if not (layer.keeps_inputs or self._listener.keeps_inputs):
            visit.x = visit.a = visit.a.new_empty(0)

        def hear(g: Tensor) -> None:
            if self._muted:
                return
            g = layer.cotangents(g)
            if layer.arranged and visit.order is not None:
                g = positions_first(arrange(g, visit.order, self._count))
            self._tell(visit, g)

        self._handles.append(z.register_hook(hear))

    def _tell(self, visit: Visit, g: Tensor) -> None:
        listener = self._listener
        if self._several is None:
            listener.on_cotangent(visit, g)
        elif isinstance(listener, ListenerToSeveral):
            leave(g, self._several, partial(listener.on_cotangents, visit))

    def _call(self, layer: Layer) -> int:
        self.calls[layer] += 1
        return self.calls[layer] - 1


def positions_first(x: Tensor) -> Tensor:
    """Flatten what lies between batch and features: ``[N, …, d]`` to ``[N, P, d]``."""
    return x[:, None] if x.dim() == 2 else x.flatten(1, -2)


@contextmanager
def requiring_gradients(network: Network, wanted: bool) -> Iterator[None]:
    """Freeze or unfreeze every parameter for a while, then restore each.

    Experts are meanwhile applied one by one, so that they can be listened to, and
    4-bit layers kept from changing into a form that lets no gradient pass.

    Args:
        network: Its module is left as it was found.
        wanted: Whether parameters are to require gradients.

    Yields:
        Nothing.
    """
    before = {p: p.requires_grad for p in network.module.parameters()}
    for p in before:
        p.requires_grad_(wanted and p.is_floating_point())
    try:
        module = network.module
        with running_experts_one_by_one(module), kept_for_gradients(module):
            yield
    finally:
        for p, flag in before.items():
            p.requires_grad_(flag)
