"""Texts with some tokens masked, which are predicted; which ones the text decides."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.distribution_maps import PREDICTED
from kfac_artifacts.sources.texts import TextEncoder

SHARE = 0.15
"""Of the tokens of a text, as BERT was trained (Devlin et al. 2019)."""


@dataclass(frozen=True)
class MaskingEncoder:
    """A tokenizer, and masks in the place of some tokens.

    Attributes:
        texts: Tokenizer and length.
        mask: Number of the token that stands for a masked one.
        share: How many of the tokens that are not special are masked, rounded up.
    """

    texts: TextEncoder
    mask: int
    share: float = SHARE

    @classmethod
    def of(cls, network: Network, texts: TextEncoder) -> "MaskingEncoder":
        """Take the mask of the tokenizer.

        Args:
            network: The network, for the error.
            texts: Tokenizer and length.

        Returns:
            The encoder.

        Raises:
            SourceError: If the tokenizer has none.
        """
        mask = texts.tokenizer.mask_token_id
        if mask is None:
            raise SourceError(
                f"the tokenizer of {network.id} has no token for masks, which the head "
                "of a masked language model needs; give --output-map embedding"
            )
        return cls(texts, int(mask))

    def __call__(self, rows: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """Encode rows of one text each, or of two that form a pair, and mask them.

        Args:
            rows: The texts.

        Returns:
            The model's keyword arguments, with ``predicted``.

        Raises:
            SourceError: If a text has nothing but special tokens.
        """
        batch = self.texts(rows)
        ids = batch["input_ids"].clone()
        special = torch.tensor(self.texts.tokenizer.all_special_ids)
        free = batch["attention_mask"].bool() & ~torch.isin(ids, special)
        if not bool(free.any(1).all()):
            raise SourceError(
                f"{int((~free.any(1)).sum())} of {len(rows)} texts have no token that "
                "could be masked; remove texts without words"
            )
        predicted = torch.zeros_like(ids)
        for row, marked, allowed, real in zip(
            ids, predicted, free, batch["attention_mask"], strict=True
        ):
            marked[chosen(row[real.bool()].tolist(), allowed, self.share)] = 1
        batch["input_ids"] = ids.masked_fill(predicted.bool(), self.mask)
        batch[PREDICTED] = predicted
        return batch

    @property
    def configuration(self) -> dict[str, Json]:
        """How a text becomes tokens, as recorded in artifacts."""
        return self.texts.configuration | {"masked": self.share}


def chosen(ids: Sequence[int], free: Tensor, share: float) -> list[int]:
    """Choose the positions that are masked, by the text alone (output_maps.md, 2.1).

    Args:
        ids: Numbers of the real tokens.
        free: Which positions may be masked, ``[T]``.
        share: How many of them are.

    Returns:
        The positions.
    """
    places = free.nonzero()[:, 0].tolist()
    text = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()

    def lot(place: int) -> bytes:
        return hashlib.sha256(f"{text} {place}".encode()).digest()

    return sorted(places, key=lot)[: math.ceil(share * len(places))]
