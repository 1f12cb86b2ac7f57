"""The classifier that a checkpoint has itself, as a head.

Architectures put all kinds of things between the encoder and the classes: nothing but a
linear layer, or a dense one, an activation and a norm before that. So nothing is
assumed: the last layers that the whole model runs through are the head if, put on the
outputs of f, they give the logits that it gives for the same examples.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Batch, LabelledExamples, Network
from kfac_artifacts.sources.calling import call
from kfac_artifacts.sources.distribution_maps import NO_DISTRIBUTION
from kfac_artifacts.sources.output_maps import OUTPUT_MAPS, RAW, output_map
from kfac_artifacts.sources.own_models import refuse_function
from kfac_artifacts.sources.processors import from_pretrained
from kfac_artifacts.sources.traced_layers import TracedLayers
from kfac_artifacts.task_vector import Head, HeadLayer, LayeredHead, LinearHead

KINDS = ("ForSequenceClassification", "ForImageClassification")
COMPARED = 4
MOST_LAYERS = 8
CLOSE = 1e-3
"""How far logits may be off, as a share of what they differ by between examples."""
ROUNDING = 1e-5
COARSE = 50.0
"""How much farther in half precision."""


@torch.no_grad()
def own_head(network: Network, examples: LabelledExamples) -> Head:
    """Take the classifier of a checkpoint as the head of a network.

    Args:
        network: A network of a checkpoint that was saved with a classifier of texts or
            of images.
        examples: Examples, on the first of which it is tried.

    Returns:
        Its layers behind f, frozen; its classes are called as the checkpoint calls
        them.

    Raises:
        SourceError: If there is no classifier, or it is no chain of layers on the
            outputs of f; if it is one on those of another output map, it is said of
            which.
    """
    whole = _whole(network)
    batch = network.to_device(examples.batch(range(min(COMPARED, len(examples)))))
    with TracedLayers() as traced:
        logits = call(whole, batch).logits
    chains = list(_chains(traced.layers, logits.shape[-1]))
    names = [str(whole.config.id2label[i]) for i in range(logits.shape[-1])]

    def fitting(network: Network) -> Head | None:
        return _fitting(network, chains, names, batch, logits)

    if (head := fitting(network)) is not None:
        return head
    maps = sorted(OUTPUT_MAPS, key=lambda name: name != "pooler")  # it leaves least
    others = (f"{name}{RAW}" for name in maps)
    other = next((n for n in others if _fits_with(network, n, fitting)), None)
    advice = (
        "nor on those of any output map; fit a linear one instead (--head linear)"
        if other is None
        else f"it is on those of {other}: give --output-map {other}"
    )
    raise SourceError(
        f"the classifier of {network.id} ({type(whole).__name__}) is no chain of "
        f"linear layers, norms and activations on the outputs of "
        f"{network.output_map.info.name}; {advice}"
    )


def _whole(network: Network) -> Any:
    """Load the model with its classifier."""
    refuse_function(getattr(network, "function", ""), "it has no classifier of its own")
    config: Any = getattr(network.module, "config", None)
    saved = (getattr(config, "architectures", None) or [""])[0]
    if not saved.endswith(KINDS):
        raise SourceError(
            f"{network.id} was saved as {saved or 'no class'}, without a classifier of "
            f"its own: --head own is for classes called …{' or …'.join(KINDS)}"
        )
    if config.problem_type in NO_DISTRIBUTION or config.num_labels < 2:
        raise SourceError(
            f"the classifier of {network.id} ({config.problem_type or 'of one class'}) "
            "does not choose one class of several, which --head own is for; give "
            "another head (--head linear or prototypes)"
        )
    kind = getattr(transformers, saved)
    whole = from_pretrained(kind, network, "classifier", use_safetensors=True)
    return whole.eval().to(network.device, network.dtype)


def _chains(layers: Sequence[HeadLayer], classes: int) -> Iterator[list[HeadLayer]]:
    """The last layers, up to the one that gives the logits; ever more of them."""
    lasts = [i for i, layer in enumerate(layers) if layer.info.outputs == classes]
    end = lasts[-1] + 1 if lasts else 0
    width = classes
    for start in range(end - 1, max(-1, end - 1 - MOST_LAYERS), -1):
        weight = layers[start].weight
        if weight is None:
            continue
        if weight.shape[0] != width:
            return  # what was called before gave its outputs to something else
        width = weight.shape[-1]
        yield list(layers[start:end])


def _fitting(
    network: Network,
    chains: Iterable[Sequence[HeadLayer]],
    classes: Sequence[str],
    batch: Batch,
    logits: Tensor,
) -> Head | None:
    """The shortest chain that gives the logits of the whole model, if there is one."""
    outputs, expected = network(batch).double(), logits.double()
    spread = (expected - expected.mean(0)).norm()
    allowed = CLOSE * spread + ROUNDING * expected.norm()
    if network.dtype not in {torch.float32, torch.float64}:
        allowed *= COARSE
    for chain in chains:
        head = _head([_kept(layer) for layer in chain], tuple(classes))
        if head.dim == outputs.shape[-1]:
            found = head.logits(outputs)
            if found.shape == expected.shape and (found - expected).norm() <= allowed:
                return head
    return None


def _head(layers: Sequence[HeadLayer], classes: tuple[str, ...]) -> Head:
    first, *more = layers
    if more or first.weight is None or first.bias is None:
        return LayeredHead(tuple(layers), classes)
    return LinearHead(first.weight, first.bias, classes)


def _kept(layer: HeadLayer) -> HeadLayer:
    """The same layer as heads are kept: its own numbers, in float32, on the CPU."""

    def kept(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().float().cpu()

    return HeadLayer(layer.info, kept(layer.weight), kept(layer.bias))


def _fits_with(
    network: Network, name: str, fitting: Callable[[Network], Head | None]
) -> bool:
    try:
        other = replace(network, output_map=output_map(network.module, name))
        return fitting(other) is not None
    except SourceError:  # it does not fit the model
        return False
