"""One forward pass and its backward passes, in which every layer is listened to.

Parameters are frozen, so a backward pass reaches activations only. The first tensors
that layers put out are the leaves of the graph: nothing before them is differentiated,
unless a tensor of the batch requires gradients.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils.hooks import RemovableHandle

from kfac_artifacts.capture.batched_vjp import can_be_batched, filled, leave, vjp
from kfac_artifacts.capture.encoder_decoder import Stages
from kfac_artifacts.capture.events import Listener, ListenerToSeveral
from kfac_artifacts.capture.layers.attention import explicit_attention
from kfac_artifacts.capture.layers.base import Layer, LayerCall
from kfac_artifacts.capture.layers.batch_layout import (
    BatchLayout,
    canonical,
    fits,
    possible,
)
from kfac_artifacts.capture.layers.copies import Copies, Decisions
from kfac_artifacts.capture.layers.experts import listening_to_products
from kfac_artifacts.capture.layers.lookups import listening_to_lookups
from kfac_artifacts.capture.layers.loose import LooseParameter
from kfac_artifacts.capture.layers.quantised import kept_for_gradients
from kfac_artifacts.capture.layers.routing import Tokens
from kfac_artifacts.capture.layers.tables import TableLayer
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.kernels import running_experts_one_by_one
from kfac_artifacts.network import Batch, Network


class Pass:
    """A forward pass over one batch, and any number of backward passes after it.

    Attributes:
        f: The output map's value, ``[N, C]``.
        largest: Numbers in the largest output of a layer.
        call_counts: How often each layer was used.
        failures: Layers whose input breaks the contract of ``layers``, and how.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer],
        batch: Batch,
        listener: Listener,
    ) -> None:
        self.call_counts: Counter[Layer] = Counter()
        self.failures: dict[Layer, str] = {}
        self.largest = 1
        self._network, self._layers, self._batch = network, layers, batch
        self._several: int | None = None  # how many come back at once
        self._muted = self._forward_only = False
        self._entries = [value for value in batch.values() if value.requires_grad]
        self._leaves: list[Tensor] = [*self._entries]
        self._begun: list[Decisions] = []
        self._handles: list[RemovableHandle] = []
        self._listener = listener
        self._stages = Stages(network.mask(batch))
        self._count = len(next(iter(batch.values())))

    def forward(self, *, forward_only: bool = False) -> "Pass":
        """Go forward, and tell the listener of every input.

        Args:
            forward_only: Whether nothing is to be pulled back: no graph is kept, and
                what the head of the output map gives is not computed.

        Returns:
            The pass itself, whose ``f`` is there now; without its head it is as finite
            as f, and means nothing.

        Raises:
            CoverageError: If a parameter is used otherwise than it was proved.
        """
        self._forward_only = forward_only
        network, parameters = self._network, self._network.parameters()
        loose = [each for each in self._layers if isinstance(each, LooseParameter)]
        copies = {each.name: self._copies(each, parameters) for each in loose}
        with ExitStack() as stack:
            self._hook_modules(stack)
            products = listening_to_products(
                self._layers, parameters, self._tokens, self._on_product, self.failures
            )
            stack.enter_context(products)
            stack.enter_context(listening_to_lookups(self._layers, self._on_lookup))
            stack.enter_context(self._stages.following(network.module))
            stack.enter_context(torch.set_grad_enabled(not forward_only))
            if forward_only:
                stack.enter_context(_headless(network))
            self.f = network.functional_call(copies, self._batch)
        for each in loose:
            each.end_of_forward()
        for decisions in self._begun:
            decisions.end()
        return self

    def _hook_modules(self, stack: ExitStack) -> None:
        """Be called by the modules that are layers themselves."""
        projections = stack.enter_context(explicit_attention(self._network.module))
        for layer in self._layers:
            for module in layer.modules if layer.is_hooked else ():
                place = projections.get(module, module)
                handle = place.register_forward_hook(
                    self._hook(layer), with_kwargs=True
                )
                stack.callback(handle.remove)

    def backward(self, s: Tensor, *, last: bool = True) -> list[Tensor]:
        """Pull one cotangent per example back through the network.

        Args:
            s: ``[N, C]``.
            last: Whether the graph may be freed.

        Returns:
            The gradients of the tensors of the batch that require them.

        Raises:
            CoverageError: If no layer was reached.
        """
        self._check_reached()
        found = torch.autograd.grad(
            self.f, self._leaves, s, retain_graph=not last, allow_unused=True
        )
        if last:
            self.close()
        return filled(self._entries, found)

    def backward_several(self, S: Tensor, *, last: bool = True) -> list[Tensor]:
        """Pull K cotangents per example back at once; see ``takes_several``.

        Args:
            S: ``[K, N, C]``.
            last: Whether the graph may be freed.

        Returns:
            The gradients of the tensors of the batch that require them, K of each.

        Raises:
            CoverageError: If no layer was reached.
        """
        self._check_reached()
        self._several = len(S)
        found = vjp(self.f, self._leaves, S, retain=not last, given=self._entries)
        self._several = None
        if last:
            self.close()
        return found

    def takes_several(self) -> bool:
        """Whether several cotangents can be pulled back at once; tries it, muted."""
        self._check_reached()
        self._muted = True
        try:
            return can_be_batched(self.f, self._leaves)
        finally:
            self._muted = False

    def _check_reached(self) -> None:
        if not self._leaves or not self.f.requires_grad:
            faults = "; ".join(sorted(set(self.failures.values())))
            raise CoverageError(
                "f does not depend on any parameter that was asked for"
                f"{' and can be covered: ' if faults else ''}{faults}"
            )

    def close(self) -> None:
        """Stop listening: hooks and graph hold each other, and no collector sees it."""
        for handle in self._handles:
            handle.remove()

    def _copies(self, layer: LooseParameter, values: Mapping[str, Tensor]) -> Copies:
        value = values[layer.name]
        leaves = layer.leaves(value, self._count)
        self._leaves.append(leaves)
        rows = layer.row_numbers(self._count, value.device)
        layout = layer.batch_layouts[0]
        call = LayerCall(layer, self._number(layer), leaves, rows, None, None, layout)
        self._listen(call, leaves)
        return layer.copies(leaves)

    def _hook(self, layer: Layer) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], z: Any
        ) -> Any:
            x = args[0] if args else next(iter(kwargs.values()))
            if not (isinstance(x, Tensor) and isinstance(z, Tensor)):
                self.failures[layer] = "its module takes or gives something but tensors"
                return z
            return self._use(layer, self._number(layer), x, z)

        return hook

    def _on_lookup(self, layer: TableLayer, ids: Tensor, rows: Tensor) -> Tensor:
        """A use of a table inside of its module."""
        number = self._number(layer)
        spread = layer.spread(number, ids, rows, self._count)
        return self._use(layer, number, *spread)

    def _use(self, layer: Layer, number: int, x: Tensor, z: Tensor) -> Tensor:
        if layer.batch_layouts.get(number) is BatchLayout.SHARED:
            return self._share(layer, number, x, z)
        try:
            call = self._layer_call(layer, number, x)
        except CoverageError as error:
            self.failures[layer] = str(error)
            return z
        return self._enter(call, z)

    def _share(self, layer: Layer, number: int, x: Tensor, z: Tensor) -> Tensor:
        """A use that all examples share: each goes on with a copy of the output."""
        a = positions_first(vmap(layer.inputs)(self._of_all(x.detach())))
        shared = BatchLayout.SHARED
        call = LayerCall(layer, number, x, a, None, None, shared)
        copies = self._enter(call, self._of_all(z))
        if self._forward_only:
            return z
        self._begun.append(layer.decisions[number].begin())
        return Copies(copies, self._begun[-1])

    def _of_all(self, x: Tensor) -> Tensor:
        """One for every example, ``[N, *shape]``."""
        return x.copies if isinstance(x, Copies) else x.expand(self._count, *x.shape)

    def _tokens(self, x: Tensor) -> Tokens:
        return Tokens(self._count, self._stages.masks_of(x).mask)

    def _on_product(self, layer: Layer, a: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        """A use of a layer inside of its module; everything is canonical."""
        rows = mask.flatten().nonzero()[:, 0]
        first, number = BatchLayout.FIRST, self._number(layer)
        call = LayerCall(layer, number, a, a.detach(), mask, rows, first)
        return self._enter(call, z)

    def _enter(self, call: LayerCall, z: Tensor) -> Tensor:
        if not (z.requires_grad or self._forward_only):
            self._leaves.append(z.detach().requires_grad_())
            z = self._leaves[-1].clone()  # a leaf may not be changed in place
        self._listen(call, z)
        return z

    def _layer_call(self, layer: Layer, number: int, x: Tensor) -> LayerCall:
        """Look at an input: where its examples are, and which positions are real."""
        layout = layer.batch_layouts.get(number)
        a = layer.inputs(x.detach()) if x.dim() > 1 or layer.looks_up else x
        lead = a.shape[: -1 if layer.is_canonical else 1]
        self._require_batch(layer, layout, lead, x)
        if layout is None or not layer.is_canonical:
            return LayerCall(layer, number, x, a, None, None, layout)
        a = canonical(a, layout, self._count)
        mask, rows = None, None
        if not layer.has_gramian:
            mask, rows = self._stages.masks_of(x).of(a.shape[1:-1], x.shape)
        a = positions_first(a)
        a = a[..., 0] if layer.looks_up else a
        return LayerCall(layer, number, x, a, mask, rows, layout)

    def _require_batch(
        self, layer: Layer, layout: BatchLayout | None, lead: torch.Size, x: Tensor
    ) -> None:
        """Refuse an input in which the batch is not, or not where it was."""
        if layout is not None and not fits(layout, lead, self._count):
            raise CoverageError(
                f"the batch of {self._count} is not where it was in its input "
                f"{list(x.shape)}: {layout.value}"
            )
        if layout is None:
            allowed = possible(lead, self._count) if lead else []
            if layer.is_batch_first:
                allowed = [each for each in allowed if each is BatchLayout.FIRST]
            if not allowed:
                shape = list(x.shape)
                raise CoverageError(
                    f"the batch of {self._count} is nowhere in its input {shape}"
                )

    def _listen(self, call: LayerCall, z: Tensor) -> None:
        self._listener.on_input(call)
        self.largest = max(self.largest, z.numel())
        if self._forward_only:
            return
        layer = call.layer
        if not (layer.keeps_inputs or self._listener.keeps_inputs):
            call.x = call.a = call.a.new_empty(0)

        def receive(g: Tensor) -> None:
            if self._muted:
                return
            if call.layout is BatchLayout.SHARED:
                self._report(call, positions_first(vmap(layer.cotangents)(g)))
                return
            g = layer.cotangents(g)
            if layer.is_canonical and call.layout is not None:
                g = positions_first(canonical(g, call.layout, self._count))
            self._report(call, g)

        self._handles.append(z.register_hook(receive))

    def _report(self, call: LayerCall, g: Tensor) -> None:
        listener = self._listener
        if self._several is None:
            listener.on_cotangent(call, g)
        elif isinstance(listener, ListenerToSeveral):
            leave(g, self._several, partial(listener.on_cotangents, call))

    def _number(self, layer: Layer) -> int:
        self.call_counts[layer] += 1
        return self.call_counts[layer] - 1


def positions_first(x: Tensor) -> Tensor:
    """Flatten what lies between batch and features: ``[N, …, d]`` to ``[N, P, d]``."""
    return x[:, None] if x.dim() == 2 else x.flatten(1, -2)


@contextmanager
def _headless(network: Network) -> Iterator[None]:
    """Let the head of f give what it is given; it is still seen to be called."""
    path = network.output_map.head
    head = network.module.get_submodule(path) if path else None
    if head is None or [*head.children()]:
        yield
        return
    head.forward = lambda x, *_, **__: x
    try:
        yield
    finally:
        del head.forward


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
