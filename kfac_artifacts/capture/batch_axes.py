"""Finding which axis separates the examples of a batch at every layer.

Each example is pulled back alone. Where its cotangent arrives is where the example is:
a layout of axes, or a shape of copies, that puts any of it down to another example is
wrong, whatever the shapes say. If several layouts pass, none is taken.
"""

import logging
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from kfac_artifacts.capture.events import Listener
from kfac_artifacts.capture.hooks import Pass
from kfac_artifacts.capture.layers.base import Layer, LayerCall
from kfac_artifacts.capture.layers.batch_layout import BatchLayout, canonical, possible
from kfac_artifacts.capture.layers.copies import Copies
from kfac_artifacts.capture.layers.inventory import Inventory
from kfac_artifacts.capture.unbatched import share_unbatched
from kfac_artifacts.network import Batch, Network

logger = logging.getLogger(__name__)

NOT_APART = "its examples cannot be told apart: no axis of its input is the batch"
AMBIGUOUS = "its examples cannot be told apart: two axes of its input may be the batch"
NOT_ONCE = "the model does not use it once per example"
ROUNDING = 1e-6
"""What another example may see, as a share; exact zeros are the rule."""


class _Ignoring:
    """Listens to nothing."""

    keeps_inputs = False

    def on_input(self, call: LayerCall) -> None:
        """Ignore it."""

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """Ignore it."""


class _SizeListener:
    """Keeps how large the cotangents of each call are, along its first two axes."""

    keeps_inputs = False

    def __init__(self) -> None:
        self.calls: list[LayerCall] = []
        self.shapes: dict[int, torch.Size] = {}
        self.sizes: dict[int, list[Tensor]] = {}

    def on_input(self, call: LayerCall) -> None:
        """Note the axes before the features."""
        self.calls.append(call)
        ends = -1 if call.layer.is_canonical else 1
        self.shapes[id(call)] = call.a.shape[:ends]
        self.sizes[id(call)] = []

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """Note the sizes."""
        size = g.norm(dim=-1) if call.layer.is_canonical else g.flatten(1).norm(dim=1)
        size = size.flatten(2).sum(-1) if size.dim() > 2 else size
        self.sizes[id(call)].append(size.double().cpu())

    def end_of_backward(self, n: int) -> None:
        """Note nothing where the cotangent of example n did not arrive."""
        for sizes in self.sizes.values():
            if len(sizes) == n:
                sizes.append(torch.zeros(()))


def find_batch_axes(
    network: Network, inventory: Inventory, batch: Batch, f: Tensor, s: Tensor
) -> None:
    """Find where the examples are at every call, or drop the layer.

    What all examples share is dropped, too, if f is another with a copy for each.

    Args:
        network: The network, frozen.
        inventory: Layers to look at; those that fail move to its ``uncovered``.
        batch: At least two examples.
        f: What the network computes for them, ``[N, C]``.
        s: A cotangent for every example, ``[N, C]``.
    """
    faults = _first_faults(network, inventory, batch, f, s)
    if faults:
        fit = partial(_same, network, batch=batch, f=f)
        shared = share_unbatched(network, faults, batch, fit)
        for layer in shared:
            layer.keep_decisions()
            del faults[layer]
        faults |= _faults(network, shared, batch, s) if shared else {}
    for layer, fault in faults.items():
        if layer in inventory.layers:
            inventory.drop(layer, fault)


def _first_faults(
    network: Network, inventory: Inventory, batch: Batch, f: Tensor, s: Tensor
) -> dict[Layer, str]:
    """As ``_faults``, in one pass if copies of what examples share change nothing."""
    shared = [layer for layer in inventory.layers if layer.looks_up]
    if not shared:
        return _faults(network, inventory.layers, batch, s)
    listener = _SizeListener()
    passed = _fitting(network, inventory.layers, batch, f, listener)
    if passed is None:
        _drop_unfit(network, inventory, shared, batch, f)
    for layer in shared:
        layer.keep_decisions()
    if passed is None:
        return _faults(network, inventory.layers, batch, s)
    return _faults_of(passed, listener, s)


def _drop_unfit(
    network: Network,
    inventory: Inventory,
    shared: Sequence[Layer],
    batch: Batch,
    f: Tensor,
) -> None:
    """Drop what all examples share if f is another with a copy for each of them."""
    if _same(network, shared, batch, f):
        return
    for layer in shared:
        if not (
            _same(network, [layer], batch, f)
            or (layer.stop_sharing() and _same(network, [layer], batch, f))
        ):
            inventory.drop(layer, NOT_ONCE)


def _same(network: Network, layers: Sequence[Layer], batch: Batch, f: Tensor) -> bool:
    passed = _fitting(network, layers, batch, f, _Ignoring())
    if passed is not None:
        passed.close()
    return passed is not None


def _fitting(
    network: Network,
    layers: Sequence[Layer],
    batch: Batch,
    f: Tensor,
    listener: Listener,
) -> Pass | None:
    """A pass in which f is what it was without copies, or None."""
    passed = Pass(network, layers, batch, listener)
    try:
        passed.forward()
        if not isinstance(passed.f, Copies):  # or the copies never met the examples
            found = passed.f.detach()
            same = found.shape == f.shape
            if same and torch.allclose(found, f, rtol=1e-2, atol=1e-4):
                return passed
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model may raise anything when it cannot use what it is given
        logger.debug("f cannot be computed with copies", exc_info=True)
    passed.close()
    return None


def _faults(
    network: Network, layers: Sequence[Layer], batch: Batch, s: Tensor
) -> dict[Layer, str]:
    listener = _SizeListener()
    passed = Pass(network, layers, batch, listener).forward()
    return _faults_of(passed, listener, s)


def _faults_of(passed: Pass, listener: _SizeListener, s: Tensor) -> dict[Layer, str]:
    """Write down the layouts of all calls, and say of which layers there is none."""
    faults = dict(passed.failures)
    if not listener.calls:
        return faults
    for n in range(len(s)):
        alone = torch.zeros_like(s)
        alone[n] = s[n]
        passed.backward(alone, last=n == len(s) - 1)
        listener.end_of_backward(n)
    for call in listener.calls:
        fault = _batch_axis(call, listener, len(s))
        if fault is not None:
            faults.setdefault(call.layer, fault)
    return faults


def _batch_axis(call: LayerCall, listener: _SizeListener, count: int) -> str | None:
    """Write down the layout of a call, or say why there is none."""
    layer = call.layer
    sizes = listener.sizes[id(call)]
    if call.layout is not None:  # canonical already
        return None if _apart(BatchLayout.FIRST, sizes, count) else NOT_APART
    allowed = [BatchLayout.FIRST]
    if not layer.is_batch_first:
        allowed = possible(listener.shapes[id(call)], count)
    good = [each for each in allowed if _apart(each, sizes, count)]
    if len(good) != 1:
        return AMBIGUOUS if good else NOT_APART
    layer.batch_layouts[call.number] = good[0]
    return None


def _apart(layout: BatchLayout, sizes: list[Tensor], count: int) -> bool:
    """Whether nothing of an example is attributed to another one."""
    for n, size in enumerate(sizes):
        if size.dim() > 0:
            others = canonical(size, layout, count).clone()
            own = others[n].norm()
            others[n] = 0
            if not others.norm() <= ROUNDING * own:
                return False
    return True
