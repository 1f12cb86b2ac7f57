"""Two texts for an encoder-decoder: what is read, and what is predicted behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.decoder_start import start_token
from kfac_artifacts.sources.distribution_maps import PREDICTED
from kfac_artifacts.sources.language.continuations import PAIR
from kfac_artifacts.sources.texts import TextEncoder


@dataclass(frozen=True)
class TargetEncoder:
    """A text for the encoder and one for the decoder, which is given it in advance.

    Attributes:
        texts: Tokenizer and length, of both.
        start: Number of the token that the decoder begins with.
    """

    texts: TextEncoder
    start: int

    @classmethod
    def of(cls, network: Network, texts: TextEncoder, columns: int) -> "TargetEncoder":
        """Take the first token from the configuration of the model.

        Args:
            network: The network.
            texts: Tokenizer and length.
            columns: From how many columns the texts of an example come.

        Returns:
            The encoder.

        Raises:
            SourceError: If there is no second text, or no such token.
        """
        if columns != 2:
            raise SourceError(
                f"{network.id} is an encoder-decoder: with lm-fisher it needs two "
                "texts, the one that is read and the one that is predicted: give "
                "--text-column twice (or --output-map embedding, for its encoder)"
            )
        return cls(texts, start_token(network.module, network.id))

    def __call__(self, rows: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """Encode rows of two texts.

        Args:
            rows: The texts.

        Returns:
            The model's keyword arguments, with ``predicted``.
        """
        batch = self.texts([(first,) for first, _ in rows])
        encoded = self.texts.tokenizer(
            text_target=[last for _, last in rows],
            padding=True,
            truncation=True,
            max_length=self.texts.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        target, real = encoded["input_ids"], encoded["attention_mask"]
        first = torch.full_like(target[:, :1], self.start)
        batch["decoder_input_ids"] = torch.cat([first, target[:, :-1]], dim=1)
        batch["decoder_attention_mask"] = batch[PREDICTED] = real
        return batch

    @property
    def configuration(self) -> dict[str, Json]:
        """How texts become tokens, as recorded in artifacts."""
        return self.texts.configuration | {PAIR: "target"}
