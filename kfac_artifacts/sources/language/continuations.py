"""Texts whose every token is predicted, or what stands behind a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.sources.distribution_maps import PREDICTED
from kfac_artifacts.sources.language.spans import encode_spans, require_predicted
from kfac_artifacts.sources.texts import TextEncoder

PAIR, CONTINUATION = "pair", "continuation"


@dataclass(frozen=True)
class ContinuationEncoder:
    """A text, or a prompt and its continuation, which are joined as they are.

    Attributes:
        texts: Tokenizer and length.
        columns: 1 for texts, 2 for prompts and continuations.
    """

    texts: TextEncoder
    columns: int

    def __call__(self, rows: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """Encode texts; of two in a row the first is not predicted.

        Args:
            rows: The texts.

        Returns:
            The model's keyword arguments, with ``predicted``.

        Raises:
            SourceError: If nothing of an example is predicted.
        """
        if self.columns == 1:
            batch = self.texts(rows)
            batch[PREDICTED] = batch["attention_mask"].clone()
            batch[PREDICTED][:, 0] = 0
            require_predicted(batch[PREDICTED], self.texts.max_length)
            return batch
        self.texts.require_room()
        prompts = [self.texts.prompt + first for first, _ in rows]
        whole = [p + last for p, (_, last) in zip(prompts, rows, strict=True)]
        spans = [[(len(p), len(w))] for p, w in zip(prompts, whole, strict=True)]
        return encode_spans(self.texts, whole, spans, framed=True)

    @property
    def configuration(self) -> dict[str, Json]:
        """How a text becomes tokens, as recorded in artifacts."""
        pair: dict[str, Json] = {PAIR: CONTINUATION} if self.columns > 1 else {}
        return self.texts.configuration | pair
