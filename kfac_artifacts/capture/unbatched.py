"""Calls in which no example is: what all of them share, as relative positions.

Weights may be applied to such an input as well as to tokens: queries and keys of
DeBERTa-v3 are. Every example is given a copy of the output, so that what comes back to
the copy is the example's own, and the positions of the call are its positions, too.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.network import Batch, Network

logger = logging.getLogger(__name__)


def share_unbatched(
    network: Network,
    layers: Iterable[Layer],
    batch: Batch,
    fit: Callable[[Sequence[Layer]], bool],
) -> list[Layer]:
    """Take calls whose inputs are as large for a shorter example as for all for shared.

    Args:
        network: The network, frozen.
        layers: Layers to look at.
        batch: At least two examples.
        fit: Whether f is what it was with these layers listened to.

    Returns:
        The layers that now have such calls. Nothing of it is proved.
    """
    calls = _without_batch(network, layers, batch)
    for layer, numbers in calls.items():
        for number in numbers:
            layer.share(number)
    if not calls or fit(list(calls)):
        return list(calls)
    for layer in calls:
        layer.unshare()
    return [layer for layer in calls if _shares(layer, calls[layer], fit)]


def _shares(
    layer: Layer, numbers: Sequence[int], fit: Callable[[Sequence[Layer]], bool]
) -> bool:
    for number in numbers:
        layer.share(number)
    if fit([layer]):
        return True
    layer.unshare()
    return False


def _without_batch(
    network: Network, layers: Iterable[Layer], batch: Batch
) -> dict[Layer, list[int]]:
    """The numbers of such calls, by layer."""
    candidates = [s for s in layers if s.is_hooked and s.is_canonical]
    if not candidates:
        return {}
    of_all = _input_shapes(network, candidates, batch)
    try:
        of_one = _input_shapes(network, candidates, _shortened(network, batch))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model may raise anything when it wants texts of one length
        logger.debug("f cannot be computed of a shorter example", exc_info=True)
        return {}
    found: dict[Layer, list[int]] = defaultdict(list)
    for layer, shapes in of_all.items():
        if len(shapes) == len(of_one[layer]):
            pairs = zip(shapes, of_one[layer], strict=True)
            same = [number for number, (all_, one) in enumerate(pairs) if all_ == one]
            found |= {layer: same} if same else {}
    return found


def _shortened(network: Network, batch: Batch) -> Batch:
    """The first example without its last token: padding must add no positions."""
    mask = network.mask(batch)
    tokens = None if mask is None or mask.shape[1] < 2 else mask.shape
    return {
        name: x[:1, :-1] if x.shape[:2] == tokens else x[:1]
        for name, x in batch.items()
    }


def _input_shapes(
    network: Network, layers: Iterable[Layer], batch: Batch
) -> dict[Layer, list[torch.Size]]:
    shapes: dict[Layer, list[torch.Size]] = defaultdict(list)

    def note(
        layer: Layer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        shapes[layer].append(x.shape if isinstance(x, Tensor) else torch.Size())

    handles = [
        module.register_forward_pre_hook(partial(note, layer), with_kwargs=True)
        for layer in layers
        for module in layer.modules
    ]
    try:
        with torch.no_grad():
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
