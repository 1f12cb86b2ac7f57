"""Output maps of models with a head: f is made of the distributions that it gives.

f holds ``2 √p`` of one distribution after another, with p the softmax of the logits z.
Its Gramian is that of the Fisher information of labels drawn by p, since
``(∂f/∂z)ᵀ (∂f/∂z) = diag(p) - p pᵀ``: no label of the data is used.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Batch, OutputMap
from kfac_artifacts.sources.calling import call
from kfac_artifacts.sources.decoder_start import start_of_decoder
from kfac_artifacts.sources.model_heads import (
    FIRST,
    LM,
    LM_RAW,
    LOGITS,
    Head,
    head_of,
    is_head_map,
)

PREDICTED = "predicted"
"""Member of a batch: 1 for the tokens whose distributions are f, ``[N, T]``; of an
encoder-decoder those of the decoder."""
POSITIONS = "position_ids"
"""Member of a batch whose rows hold several texts: the place of a token in its own."""
NO_DISTRIBUTION = frozenset({"multi_label_classification", "regression"})
"""What a classifier may be for, besides one class for each example."""


def distribution_map(module: nn.Module, name: str | None) -> OutputMap | None:
    """Find the output map of a model's head.

    Args:
        module: A ``transformers`` model.
        name: Name of the output map; None for the usual one.

    Returns:
        The map; None if the model has no head, or another map is asked for.

    Raises:
        SourceError: If the head is none of that map, or gives no distributions.
    """
    head = head_of(type(module).__name__)
    if name is None and head in {Head.CAUSAL, Head.MASKED}:
        name = LM
    if not is_head_map(name):
        return None
    if name is None or head is None or name not in head.output_maps:
        given = "none" if head is None else f"one of {head.value}"
        raise SourceError(
            f"the output map {name} is of a head that a {type(module).__name__} does "
            f"not have; it has {given}"
        )
    info = NamedConfig(name)
    if name == FIRST:
        return OutputMap(info, start_of_decoder)
    if head is Head.CLASSIFIER:
        return OutputMap(info, _class, classes=_count_classes(module))
    apply = partial(_tokens, head=head, whole=name == LM_RAW)
    return OutputMap(info, apply, classes=_vocabulary(module), ragged=True)


def _tokens(module: nn.Module, batch: Batch, *, head: Head, whole: bool) -> Tensor:
    """Distributions of the tokens that are predicted, ``[N, T · V]``."""
    inputs = {name: value for name, value in batch.items() if name != PREDICTED}
    options: dict[str, bool] = {}
    if POSITIONS in batch:  # texts are told apart by them, without a mask or a cache
        inputs.pop("attention_mask")
        options["use_cache"] = False
    logits = call(module, inputs, **options).logits
    predicted = _predicted(batch, head)
    if head is Head.CAUSAL:  # the logits of a token are those of the next one
        logits, predicted = logits[:, :-1], predicted[:, 1:]
    if logits.shape[:2] != predicted.shape:
        raise SourceError(
            f"a {type(module).__name__} gives logits {list(logits.shape)} for tokens "
            f"{list(predicted.shape)}, so nobody knows which is whose"
        )
    weights = predicted.to(logits.dtype)
    if not whole:
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1).sqrt()
    return (roots(logits) * weights[..., None]).flatten(1)


def _predicted(batch: Batch, head: Head) -> Tensor:
    """Which tokens are predicted: all real ones, unless the batch says which."""
    decoder = "decoder_" if head is Head.SEQ2SEQ else ""
    ids = batch[f"{decoder}input_ids"]
    real = batch.get(f"{decoder}attention_mask")
    found = batch.get(PREDICTED, real)
    return torch.ones_like(ids) if found is None else found


def _class(module: nn.Module, batch: Batch) -> Tensor:
    """The distribution of an example's classes, ``[N, K]``."""
    return roots(call(module, batch).logits)


def roots(logits: Float[Tensor, "*n k"]) -> Float[Tensor, "*n k"]:
    """``2 √softmax``, whose derivative is finite where a probability is nothing."""
    wide = torch.float32 if logits.dtype.itemsize < 4 else logits.dtype
    return 2 * (0.5 * logits.log_softmax(-1, dtype=wide)).exp()


def _vocabulary(module: Any) -> int:
    """How many tokens the head gives logits of: its rows, padding of them included."""
    found = module.get_output_embeddings()
    if found is None or not hasattr(found, "weight"):
        raise SourceError(
            f"a {type(module).__name__} does not tell its output embeddings, so nobody "
            "knows how many tokens it chooses from"
        )
    return int(found.weight.shape[0])


def _count_classes(module: Any) -> int:
    count, problem = module.config.num_labels, module.config.problem_type
    if problem in NO_DISTRIBUTION or count < 2:
        raise SourceError(
            f"the head of this {type(module).__name__} ({problem or 'of one class'}) "
            f"gives no distribution of classes, so it has no output map {LOGITS}"
        )
    return int(count)
