"""Ways to pool the tokens of a text; padding may be on either side.

Each takes hidden states ``[N, T, D]``, a mask ``[N, T]`` of the positions to pool, and
one of the positions that are real; they differ where a prompt is not pooled.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kfac_artifacts.network import Batch

POOLED = "pooling_mask"
"""Name in a batch of the mask of the positions to pool, if these are not all."""
LEGACY_MODES = {  # in the order in which their outputs are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
FEWEST = 1e-9
"""In place of no token at all, so that nothing is divided by zero."""


def real_positions(hidden: Tensor, batch: Batch) -> Tensor:
    """The attention mask of a batch, or one of all positions if it has none."""
    mask = batch.get("attention_mask")
    if mask is None or mask.shape[-1] != hidden.shape[1]:
        return torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    return mask.long()


def first(hidden: Tensor, pooled: Tensor, _real: Tensor) -> Tensor:
    """The first token."""
    return _take(hidden, pooled.long().argmax(1))


def last(hidden: Tensor, pooled: Tensor, _real: Tensor) -> Tensor:
    """The last token; zero if there is none."""
    index = pooled.shape[1] - 1 - pooled.long().flip(1).argmax(1)
    return _take(hidden * _weights(hidden, pooled), index)


def mean(hidden: Tensor, pooled: Tensor, _real: Tensor) -> Tensor:
    """The mean."""
    weights = _weights(hidden, pooled)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=FEWEST)


def mean_sqrt_len(hidden: Tensor, pooled: Tensor, _real: Tensor) -> Tensor:
    """The sum, divided by the square root of the number of tokens."""
    weights = _weights(hidden, pooled)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=FEWEST).sqrt()


def weighted_mean(hidden: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
    """The mean, every token weighted by its place, counted from 1."""
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    places = places - real.argmax(1)[:, None]
    weights = _weights(hidden, pooled) * places[..., None]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=FEWEST)


def largest(hidden: Tensor, pooled: Tensor, _real: Tensor) -> Tensor:
    """The largest of every number."""
    return hidden.masked_fill(pooled[..., None] == 0, float("-inf")).amax(1)


def _weights(hidden: Tensor, pooled: Tensor) -> Tensor:
    return pooled.to(hidden.dtype)[..., None]


def _take(hidden: Tensor, index: Tensor) -> Tensor:
    index = index[:, None, None].expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index)[:, 0]


MODES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cls": first,
    "lasttoken": last,
    "max": largest,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
}
