"""Finding which axis separates the examples of a batch at every layer.

Each example is pulled back alone. Where its cotangent arrives is where the example is:
an order of axes, or a shape of copies, that puts any of it down to another example is
wrong, whatever the shapes say. If several orders pass, none is taken.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from kfac_artifacts.capture.events import Visit
from kfac_artifacts.capture.hooks import Pass
from kfac_artifacts.capture.layers.base import Layer, LooseParameter, TableLayer
from kfac_artifacts.capture.layers.batch_layout import Order, arrange, possible
from kfac_artifacts.capture.layers.inventory import Inventory
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

    def on_input(self, visit: Visit) -> None:
        """Ignore it."""

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Ignore it."""


class _SizeListener:
    """Keeps how large the cotangents of each visit are, along its first two axes."""

    keeps_inputs = False

    def __init__(self) -> None:
        self.visits: list[Visit] = []
        self.shapes: dict[int, torch.Size] = {}
        self.sizes: dict[int, list[Tensor]] = {}

    def on_input(self, visit: Visit) -> None:
        """Note the axes before the features."""
        self.visits.append(visit)
        arranged = visit.layer.arranged
        self.shapes[id(visit)] = visit.a.shape[:-1] if arranged else visit.a.shape[:1]
        self.sizes[id(visit)] = []

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """Note the sizes."""
        size = g.norm(dim=-1) if visit.layer.arranged else g.flatten(1).norm(dim=1)
        size = size.flatten(2).sum(-1) if size.dim() > 2 else size
        self.sizes[id(visit)].append(size.double().cpu())

    def end_of_backward(self, n: int) -> None:
        """Note nothing where the cotangent of example n did not arrive."""
        for sizes in self.sizes.values():
            if len(sizes) == n:
                sizes.append(torch.zeros(()))


def drop_unfit(network: Network, inventory: Inventory, batch: Batch, f: Tensor) -> None:
    """Drop what all examples share if f is another with a copy for each of them.

    Args:
        network: The network.
        inventory: Layers to try; those that fail move to its ``uncovered``.
        batch: The examples.
        f: What the network computes for them.
    """
    shared = [s for s in inventory.layers if isinstance(s, LooseParameter | TableLayer)]
    if shared and not _same(network, shared, batch, f):
        for layer in shared:
            if not (
                _same(network, [layer], batch, f)
                or _without_sharing(network, layer, batch, f)
            ):
                inventory.drop(layer, NOT_ONCE)
    for layer in shared:
        if isinstance(layer, LooseParameter):
            layer.decisions.proved = True


def _without_sharing(network: Network, layer: Layer, batch: Batch, f: Tensor) -> bool:
    """Whether f is right if the numbers in one row are those of all examples."""
    if not (isinstance(layer, TableLayer) and any(layer.common.values())):
        return False
    layer.common = dict.fromkeys(layer.common, False)
    return _same(network, [layer], batch, f)


def _same(network: Network, layers: Sequence[Layer], batch: Batch, f: Tensor) -> bool:
    try:
        passed = Pass(network, layers, batch, _Ignoring())
        passed.close()
        found = passed.f.detach()
        return found.shape == f.shape and torch.allclose(found, f, rtol=1e-2, atol=1e-4)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model may raise anything when it cannot use what it is given
        logger.debug("f cannot be computed with copies", exc_info=True)
        return False


def find_batch_axes(
    network: Network, inventory: Inventory, batch: Batch, s: Tensor
) -> None:
    """Find where the examples are at every visit, or drop the layer.

    Args:
        network: The network, frozen.
        inventory: Layers to look at; those that fail move to its ``uncovered``.
        batch: At least two examples.
        s: A cotangent for every example, ``[N, C]``.
    """
    listener = _SizeListener()
    passed = Pass(network, inventory.layers, batch, listener)
    for layer, failure in passed.failures.items():
        inventory.drop(layer, failure)
    if not inventory.layers:
        return
    for n in range(len(s)):
        alone = torch.zeros_like(s)
        alone[n] = s[n]
        passed.backward(alone, last=n == len(s) - 1)
        listener.end_of_backward(n)
    for visit in listener.visits:
        fault = _batch_axis(visit, listener, len(s))
        if fault is not None and visit.layer in inventory.layers:
            inventory.drop(visit.layer, fault)


def _batch_axis(visit: Visit, listener: _SizeListener, count: int) -> str | None:
    """Write down the order of a visit, or say why there is none."""
    layer = visit.layer
    first = isinstance(layer, LooseParameter) or layer.functional or not layer.arranged
    orders = [Order.FIRST] if first else possible(listener.shapes[id(visit)], count)
    sizes = listener.sizes[id(visit)]
    good = [o for o in orders if _apart(o, sizes, count)]
    if len(good) != 1:
        return AMBIGUOUS if good else NOT_APART
    visit.layer.orders[visit.call] = good[0]
    return None


def _apart(order: Order, sizes: list[Tensor], count: int) -> bool:
    """Whether nothing of an example is attributed to another one."""
    for n, size in enumerate(sizes):
        if size.dim() > 0:
            others = arrange(size, order, count).clone()
            own = others[n].norm()
            others[n] = 0
            if not others.norm() <= ROUNDING * own:
                return False
    return True
