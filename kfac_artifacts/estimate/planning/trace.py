"""A pass for its shapes: who is reached, how often, on what inputs, at which cost.

The pass is the one that ``compute`` makes, with the same hooks, so on the meta device
it shows what ``compute`` will see without computing anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from kfac_artifacts.capture import (
    NOT_ONCE,
    UNREACHED,
    Copies,
    Inventory,
    Layer,
    LayerCall,
    Pass,
    leaders_of,
    requiring_gradients,
    share_unbatched,
    true_gradients,
)
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.torch_private import storage_id

SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)


@dataclass(frozen=True)
class Trace:
    """What a pass over a network shows.

    Attributes:
        positions: Positions per example at every layer that is reached, over all calls.
        leaders: Layers that have the input of another one, and that one.
        reached: Parameters that f depends on.
        outputs: Number C of outputs of f.
        forward: Floating-point operations of a forward pass, per example.
        backward: Those of a backward pass to activations, per example.
        activations: Bytes per example that the forward pass keeps for the backward one.
    """

    positions: dict[Layer, int]
    leaders: dict[Layer, Layer]
    reached: frozenset[str]
    outputs: int
    forward: int
    backward: int
    activations: int


@dataclass
class KeptTensors:
    """Tensors kept for a backward pass, each storage once."""

    storages: dict[int, Tensor] = field(default_factory=dict)

    def keep(self, tensor: Tensor) -> Tensor:
        """Note a tensor that autograd keeps; gives what it is to keep."""
        self.storages[storage_id(tensor)] = tensor.detach()  # the address stays taken
        return tensor.detach()

    def nbytes(self, besides: set[int]) -> int:
        """Their size in bytes, without some storages."""
        return sum(
            tensor.untyped_storage().nbytes()
            for storage, tensor in self.storages.items()
            if storage not in besides
        )


@dataclass
class _ShapeListener:
    """Listens to all, and adds what layers keep to what autograd keeps."""

    kept: KeptTensors
    keeps_inputs = True
    calls: list[LayerCall] = field(default_factory=list)
    reached_layers: set[Layer] = field(default_factory=set)

    def on_input(self, call: LayerCall) -> None:
        self.calls.append(call)
        if call.layer.keeps_inputs:
            self.kept.keep(call.a)

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        self.reached_layers.add(call.layer)


def trace(network: Network, inventory: Inventory, batch: Batch) -> Trace:
    """Make one forward and one backward pass, and look at the shapes.

    Floating-point operations are those of matrix products and convolutions; attention
    is counted, and kept, as plain products. What needs numbers is not seen: whether
    tied weights are used elsewhere, or the first axis of an input is the batch by
    chance.

    Args:
        network: The network; left as it was found. On the meta device nothing is
            computed, and no memory is taken.
        inventory: Its layers; those that do not take part move to its ``uncovered``.
        batch: At least two examples, all of one shape.

    Returns:
        What was seen.

    Raises:
        CoverageError: If f depends on no parameter that was asked for.
        RuntimeError: If the network needs numbers, not shapes, to go forward; other
            errors of wrong shapes or values may come in its place.
    """
    f, _, true = true_gradients(network, batch, inventory.excluded)
    _drop_rigid(network, inventory, batch, f)
    with requiring_gradients(network, wanted=False):
        fit = partial(_fit, network, batch=batch, f=f)
        share_unbatched(network, inventory.layers, batch, fit)
    kept, parameters = (
        KeptTensors(),
        {storage_id(p) for p in network.parameters().values()},
    )
    listener = _ShapeListener(kept)
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with requiring_gradients(network, wanted=False):
        with forward, saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            passed = Pass(network, inventory.layers, batch, listener).forward()
        activations = kept.nbytes(besides=parameters)
        with backward:
            passed.backward(torch.zeros_like(passed.f))
    _drop_unseen(inventory, passed, listener, set(true))
    count = len(f)
    positions = dict.fromkeys(inventory.layers, 0)
    for call in listener.calls:
        if call.layer in positions:
            positions[call.layer] += _positions(call, count)
    call_counts = {layer: passed.call_counts[layer] for layer in positions}
    return Trace(
        positions=positions,
        leaders=leaders_of(listener.calls, call_counts),
        reached=frozenset(true),
        outputs=f.shape[1],
        forward=forward.get_total_flops() // count,
        backward=backward.get_total_flops() // count,
        activations=activations // count,
    )


def _drop_rigid(
    network: Network, inventory: Inventory, batch: Batch, f: Tensor
) -> None:
    """Drop what all examples share if they cannot have copies of their own."""
    shared = [layer for layer in inventory.layers if layer.looks_up]
    if _fit(network, shared, batch, f):
        return
    for layer in shared:
        if not _fit(network, [layer], batch, f):
            inventory.drop(layer, NOT_ONCE)


def _fit(network: Network, layers: Sequence[Layer], batch: Batch, f: Tensor) -> bool:
    """Whether f keeps its shape when every example has its own copy of some layers."""
    try:
        with torch.no_grad():
            listener = _ShapeListener(KeptTensors())
            passed = Pass(network, layers, batch, listener).forward()
            passed.close()
    except SHAPE_ERRORS:
        return False
    return passed.f.shape == f.shape and not isinstance(passed.f, Copies)


def _drop_unseen(
    inventory: Inventory, passed: Pass, listener: _ShapeListener, reached: set[str]
) -> None:
    for name in inventory.uncovered:
        if name not in reached:
            inventory.uncovered[name] = UNREACHED
    for layer in list(inventory.layers):
        if layer in passed.failures:
            inventory.drop(layer, passed.failures[layer])
        elif layer not in listener.reached_layers:
            used = reached.intersection(layer.parameters.values())
            inventory.drop(layer, layer.unseen if used else UNREACHED)


def _positions(call: LayerCall, count: int) -> int:
    """Positions per example; where the examples are is not known before the proof."""
    if not call.layer.is_canonical:
        return 1
    placed = call.layout is not None and call.layer.looks_up
    axes = call.a.shape if placed else call.a.shape[:-1]
    return axes.numel() // count
