"""Output maps of models with a head: f is made of the distributions that it gives.

f holds ``2 √p`` of one distribution after another, with p the softmax of the logits z.
Its Gramian is that of the Fisher information of labels drawn by p, since
``(∂f/∂z)ᵀ (∂f/∂z) = diag(p) - p pᵀ``: no label of the data is used.
"""

from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

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
    classes, path = _vocabulary(module)
    return OutputMap(info, apply, classes=classes, ragged=True, head=path)


def _tokens(module: nn.Module, batch: Batch, *, head: Head, whole: bool) -> Tensor:
    """Distributions of the tokens that are predicted, ``[N, T · V]``; 0 of others."""
    inputs = {name: value for name, value in batch.items() if name != PREDICTED}
    options: dict[str, bool] = {}
    if POSITIONS in batch:  # texts are told apart by them, without a mask or a cache
        inputs.pop("attention_mask")
        options["use_cache"] = False
    logits = call(module, inputs, **options).logits
    predicted = _predicted(batch, head)
    if head is Head.CAUSAL:  # the logits of a token are those of the next one; the last
        # ones stay, with weight 0: to cut them off would copy all logits and gradients
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        predicted = pad(predicted[:, 1:] * real[:, :-1], (0, 1))  # nothing from padding
    if logits.shape[:2] != predicted.shape:
        raise SourceError(
            f"a {type(module).__name__} gives logits {list(logits.shape)} for tokens "
            f"{list(predicted.shape)}, so nobody knows which is whose"
        )
    weights = predicted.to(_wide(logits))
    if not whole:
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1).sqrt()
    return roots(logits, weights).flatten(1)


def _predicted(batch: Batch, head: Head) -> Tensor:
    """Which tokens are predicted: all real ones, unless the batch says which."""
    decoder = "decoder_" if head is Head.SEQ2SEQ else ""
    ids = batch[f"{decoder}input_ids"]
    real = batch.get(f"{decoder}attention_mask")
    found = batch.get(PREDICTED, real)
    return torch.ones_like(ids) if found is None else found


def _class(module: nn.Module, batch: Batch) -> Tensor:
    """The distribution of an example's classes, ``[N, K]``."""
    logits = call(module, batch).logits
    return roots(logits, logits.new_ones(len(logits), dtype=_wide(logits)))


@final
class _Roots(torch.autograd.Function):
    """``2 w √p``: one tensor of the size of the logits is kept, and none beside it.

    With ``r = f / 2`` the derivative is ``∂f_i/∂z_j = r_i (δ_ij - p_j)``. By the graph
    of its parts the same would read and write all logits three times as often.
    """

    generate_vmap_rule = True

    @staticmethod
    @override
    def forward(logits: Tensor, weights: Tensor) -> Tensor:
        p = logits.softmax(-1, dtype=weights.dtype)
        return p.mul_((4 * weights.square())[..., None]).sqrt_()

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        logits, weights = inputs
        ctx.dtype = logits.dtype
        ctx.save_for_backward(output, weights)
        ctx.save_for_forward(output, weights)

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        f, weights = ctx.saved_tensors
        share = _per_square(torch.einsum("...k,...k->...", f, grads[0]) / 2, weights)
        slope = (f * -share[..., None]).add_(grads[0], alpha=0.5).mul_(f)
        return slope.to(ctx.dtype), None

    @staticmethod
    @override
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        f, weights = ctx.saved_tensors
        change = tangents[0].to(f.dtype)
        mean = _per_square(torch.einsum("...k,...k->...", f.square(), change), weights)
        return f / 2 * (change - mean[..., None])


def _per_square(total: Tensor, weights: Tensor) -> Tensor:
    """Divide by ``4 w²``, since p is ``f² / 4 w²``; nothing where w is nothing."""
    square = 4 * weights.square()
    return torch.where(square > 0, total / square.clamp(min=1e-30), 0)


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def roots(
    logits: Float[Tensor, "*n k"], weights: Float[Tensor, "*n"]
) -> Float[Tensor, "*n k"]:
    """``2 w √softmax``, whose derivative is finite where a probability is nothing.

    Args:
        logits: Logits of distributions.
        weights: w of each, not negative, in float32 or wider; a constant.

    Returns:
        Numbers of the type of the weights.
    """
    found: Tensor = _Roots.apply(logits, weights)  # type: ignore[no-untyped-call]
    return found


def _vocabulary(module: Any) -> tuple[int, str]:
    """How many tokens the head gives logits of, padding included, and its path."""
    found = module.get_output_embeddings()
    if found is None or not hasattr(found, "weight"):
        raise SourceError(
            f"a {type(module).__name__} does not tell its output embeddings, so nobody "
            "knows how many tokens it chooses from"
        )
    path = next(path for path, part in module.named_modules() if part is found)
    return int(found.weight.shape[0]), path


def _count_classes(module: Any) -> int:
    count, problem = module.config.num_labels, module.config.problem_type
    if problem in NO_DISTRIBUTION or count < 2:
        raise SourceError(
            f"the head of this {type(module).__name__} ({problem or 'of one class'}) "
            f"gives no distribution of classes, so it has no output map {LOGITS}"
        )
    return int(count)
