"""The classifier that a checkpoint has itself, as a head.

Architectures put all kinds of things between the encoder and the classes. So nothing is
assumed: a linear layer of the checkpoint's own class is the head if, put on the outputs
of f, it gives the logits that the whole model gives for the same examples.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Batch, LabelledExamples, Network
from kfac_artifacts.sources.calling import call
from kfac_artifacts.sources.output_maps import OUTPUT_MAPS, RAW, output_map
from kfac_artifacts.sources.own_models import refuse_function
from kfac_artifacts.sources.processors import from_pretrained
from kfac_artifacts.task_vector import LinearHead

KINDS = ("ForSequenceClassification", "ForImageClassification")
COMPARED = 4
CLOSE = 1e-3


@torch.no_grad()
def own_head(network: Network, examples: LabelledExamples) -> LinearHead:
    """Take the classifier of a checkpoint as the head of a network.

    Args:
        network: A network of a checkpoint that was saved with a classifier of texts or
            of images.
        examples: Examples, on the first of which it is tried.

    Returns:
        The linear layer; its classes are called as the checkpoint calls them.

    Raises:
        SourceError: If there is no classifier, or it is not a linear layer on the
            outputs of f; if it is on those of another output map, it is said of which.
    """
    whole = _whole(network)
    batch = network.to_device(examples.batch(range(min(COMPARED, len(examples)))))
    logits = call(whole, batch).logits
    head = _fitting(network, whole, batch, logits)
    if head is not None:
        return head
    names = [f"{name}{RAW}" for name in OUTPUT_MAPS]
    others = [n for n in names if _with_map(network, n, whole, batch, logits)]
    advice = (
        f"it is one on those of {others[0]}: give --output-map {others[0]}"
        if others
        else "nor on those of any output map; fit one instead (--head linear)"
    )
    raise SourceError(
        f"the classifier of {network.id} ({type(whole).__name__}) is no linear layer "
        f"on the outputs of {network.output_map.info.name}; {advice}"
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
    kind = getattr(transformers, saved)
    whole = from_pretrained(kind, network, "classifier", use_safetensors=True)
    return whole.eval().to(network.device, network.dtype)


def _fitting(
    network: Network, whole: nn.Module, batch: Batch, logits: Tensor
) -> LinearHead | None:
    """The linear layer that gives the logits of the whole model, if there is one."""
    outputs = network(batch).double()
    config: Any = whole.config
    allowed = CLOSE if network.dtype in {torch.float32, torch.float64} else 50 * CLOSE
    for layer in _linear_layers(whole, logits.shape[-1]):
        if layer.in_features != outputs.shape[-1]:
            continue
        weight = layer.weight.detach().float().cpu()
        zero = torch.zeros(len(weight))
        bias = zero if layer.bias is None else layer.bias.detach().float().cpu()
        names = config.id2label
        head = LinearHead(
            weight, bias, tuple(str(names[i]) for i in range(len(weight)))
        )
        off = (head.logits(outputs) - logits.double()).norm()
        if off <= allowed * logits.double().norm():
            return head
    return None


def _linear_layers(whole: nn.Module, classes: int) -> Iterator[nn.Linear]:
    for module in whole.modules():
        if isinstance(module, nn.Linear) and module.out_features == classes:
            yield module


def _with_map(
    network: Network, name: str, whole: nn.Module, batch: Batch, logits: Tensor
) -> bool:
    try:
        other = replace(network, output_map=output_map(network.module, name))
        return _fitting(other, whole, batch, logits) is not None
    except SourceError:  # it does not fit the model
        return False
