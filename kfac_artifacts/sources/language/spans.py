"""From spans of a text to the tokens that are predicted."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.distribution_maps import PREDICTED
from kfac_artifacts.sources.texts import TextEncoder

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Where something begins and ends in a text, in characters."""


def encode_spans(
    encoder: TextEncoder,
    texts: Sequence[str],
    spans: Sequence[Spans],
    *,
    framed: bool,
) -> dict[str, Tensor]:
    """Encode texts, and mark the tokens that reach into spans.

    A special token right behind a token of a span is marked, too: it ends what the
    span holds.

    Args:
        encoder: Tokenizer and length.
        texts: The texts.
        spans: What of each is predicted.
        framed: Whether the tokenizer puts its special tokens around a text.

    Returns:
        The model's keyword arguments and ``predicted``, ``[N, T]``. The first token is
        never marked, since nothing stands before it.

    Raises:
        SourceError: If the tokenizer does not tell where its tokens are in a text, or
            nothing of a text is predicted.
    """
    encoded: Any = encoder.tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=encoder.max_length,
        add_special_tokens=framed,
        return_attention_mask=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    offsets, special = encoded.pop("offset_mapping"), encoded.pop("special_tokens_mask")
    batch: dict[str, Tensor] = dict(encoded)
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    special = special.bool() | torch.isin(
        ids, torch.tensor(encoder.tokenizer.all_special_ids)
    )
    begin, end = offsets.unbind(-1)
    marked = torch.zeros_like(real)
    for n, wanted in enumerate(spans):
        for first, last in wanted:
            marked[n] |= (begin[n] < last) & (end[n] > first) & (end[n] > begin[n])
    ends = special[:, 1:] & marked[:, :-1] & real[:, 1:]
    marked[:, 1:] |= ends
    marked[:, 0] = False
    batch[PREDICTED] = (marked & real).long()
    require_predicted(batch[PREDICTED], encoder.max_length)
    return batch


def require_predicted(predicted: Tensor, max_length: int) -> None:
    """Refuse examples of which nothing is predicted.

    Args:
        predicted: 1 for the tokens that are, ``[N, T]``.
        max_length: Tokens after which texts were cut off.

    Raises:
        SourceError: If there is one.
    """
    without = int((predicted.sum(1) == 0).sum())
    if without:
        raise SourceError(
            f"{without} of {len(predicted)} examples have no token to predict, within "
            f"the first {max_length} tokens (--max-length): each needs one behind "
            "another, or behind its prompt; remove the others"
        )
