"""Raw texts to a model's keyword arguments, as the model's own users encode them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tokenizers import normalizers
from torch import Tensor
from transformers import AutoTokenizer

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.output_maps import pads_to_maximum
from kfac_artifacts.sources.positions import NO_LIMIT, check_length, positions_of
from kfac_artifacts.sources.processors import from_pretrained
from kfac_artifacts.sources.sentence_transformers import (
    POOLED,
    Chain,
    Declaration,
    declaration_of,
)

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 512
PASSED_ON = frozenset({"do_lower_case", "truncation_side"})
"""Declared arguments that the tokenizer is loaded with; others are seen to here."""
FEWEST_WORDS = 2  # without its files, transformers makes up a tokenizer of no words


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer that pads to the longest text of a batch, or to its maximum.

    Attributes:
        tokenizer: The model's tokenizer.
        max_length: Texts are cut off behind so many tokens.
        prompt: What is put before every text.
        unpooled: How many tokens at the start of a text are not pooled.
        to_maximum: Whether every text is padded to the maximum, as the model wants it.
        lower_case: Whether texts are put in lower case on request of the model.
    """

    tokenizer: Any
    max_length: int
    prompt: str = ""
    unpooled: int = 0
    to_maximum: bool = False
    lower_case: bool = False

    def __call__(self, rows: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """Encode rows of one text each, or of two that form a pair.

        Args:
            rows: The texts.

        Returns:
            The model's keyword arguments.

        Raises:
            SourceError: If a text has no token, or there is no room for any.
        """
        columns = [list(column) for column in zip(*rows, strict=True)]
        columns[0] = [self.prompt + text for text in columns[0]]
        self.require_room(pair=len(columns) > 1)
        encoded = self.tokenizer(
            *columns,
            padding="max_length" if self.to_maximum else True,
            truncation=True,
            max_length=self.max_length,
            # a model that reads padding gets a mask only if its tokenizer makes one
            return_attention_mask=None if self.to_maximum else True,
            return_tensors="pt",
        )
        batch = dict(encoded)
        if "attention_mask" in batch:
            self._require_tokens(batch["attention_mask"], rows)
        if self.unpooled:
            batch[POOLED] = batch["attention_mask"].clone()
            batch[POOLED][:, : self.unpooled] = 0
        return batch

    @property
    def configuration(self) -> dict[str, Json]:
        """How a text becomes tokens, as recorded in artifacts."""
        how: dict[str, Json] = {"max_length": self.max_length}
        if self.prompt:
            how["prompt"] = self.prompt
        if self.lower_case:
            how["lower_case"] = True
        if self.to_maximum:
            how["padding"] = "max_length"
        return how

    def require_room(self, *, pair: bool = False) -> None:
        """Check that a text gets at least one token beside those that frame it.

        Args:
            pair: Whether texts come in pairs.

        Raises:
            SourceError: If there is no room.
        """
        frame = self.tokenizer.num_special_tokens_to_add(pair=pair)
        if self.max_length <= frame:
            raise SourceError(
                f"max_length {self.max_length} leaves no room for a text: the "
                f"tokenizer adds {frame} tokens to every {'pair' if pair else 'text'}"
            )

    @staticmethod
    def _require_tokens(mask: Tensor, rows: Sequence[tuple[str, ...]]) -> None:
        without = (mask.sum(1) == 0).nonzero()[:, 0].tolist()
        if without:
            raise SourceError(
                f"{len(without)} of {len(rows)} texts have no token that the model "
                "knows, so there is nothing to compute f of; remove texts without words"
            )


def load_text_encoder(
    network: Network, max_length: int | None = None, prompt: str | None = None
) -> TextEncoder:
    """Load the tokenizer that came with a network.

    Args:
        network: A network whose module was loaded by ``from_pretrained``.
        max_length: Tokens after which texts are cut off; None for what the model
            declares, or else what it can take, but at most 512.
        prompt: What is put before every text; None for what the model declares.

    Returns:
        The encoder.

    Raises:
        SourceError: If there is no tokenizer, or the model is made for shorter texts.
    """
    declaration = declaration_of(network.module)
    tokenizer = _load_tokenizer(network, declaration)
    to_maximum = pads_to_maximum(network.module)
    encoder = TextEncoder(
        tokenizer,
        _length(network, tokenizer, declaration, max_length, to_maximum=to_maximum),
        prompt=_prompt(network, declaration, prompt),
        to_maximum=to_maximum,
        lower_case=declaration is not None and declaration.lower_case,
    )
    encoder.require_room()
    return _without_prompt(encoder, network)


def _length(
    network: Network,
    tokenizer: Any,
    declaration: Declaration | None,
    wanted: int | None,
    *,
    to_maximum: bool,
) -> int:
    positions = positions_of(network.module)
    if wanted is not None:
        check_length(network, wanted, "max_length")
        if to_maximum and wanted != positions:
            raise SourceError(
                f"max_length {wanted}: {network.id} takes texts that are padded to all "
                f"of its {positions} positions, and other lengths would change f"
            )
        return wanted
    if to_maximum:
        return positions
    most = min(tokenizer.model_max_length or NO_LIMIT, positions, NO_LIMIT)
    if declaration is None:
        return min(most, DEFAULT_MAX_LENGTH)
    return min(declaration.max_length or most, positions)


def _prompt(
    network: Network, declaration: Declaration | None, wanted: str | None
) -> str:
    if wanted is not None or declaration is None:
        return wanted or ""
    if declaration.prompt:
        _say_once(
            f"{network.id} declares the prompt {declaration.prompt!r}: it is put "
            "before every text; --prompt '' (prompt='') leaves it out"
        )
    elif declaration.prompts:
        found = ", ".join(f"{k} ({v!r})" for k, v in declaration.prompts.items())
        _say_once(
            f"{network.id} declares prompts, but none as the default: {found}. "
            "None is used; if yours needs one, give its text with --prompt (prompt=)"
        )
    return declaration.prompt


@cache
def _say_once(message: str) -> None:
    logger.warning("%s", message)


def _load_tokenizer(network: Network, declaration: Declaration | None) -> Any:
    options = {} if declaration is None else declaration.tokenizer_arguments
    options = {k: v for k, v in options.items() if k in PASSED_ON}
    tokenizer = from_pretrained(AutoTokenizer, network, "tokenizer", **options)
    words = len(tokenizer) - len(set(tokenizer.all_special_ids))
    if words < FEWEST_WORDS:
        raise SourceError(f"{network.id} has no tokenizer beside its weights")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise SourceError(
                f"the tokenizer of {network.id} has neither a padding nor an end token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if not pads_to_maximum(network.module):
        tokenizer.padding_side = "right"
    if declaration is not None and declaration.lower_case:
        _put_in_lower_case(tokenizer)
    return tokenizer


def _put_in_lower_case(tokenizer: Any) -> None:
    """Put lower case before whatever else the tokenizer normalises."""
    backend = tokenizer.backend_tokenizer
    lower = normalizers.Lowercase()
    before = backend.normalizer
    both = [lower] if before is None else [lower, before]
    backend.normalizer = normalizers.Sequence(both)


def _without_prompt(encoder: TextEncoder, network: Network) -> TextEncoder:
    """Leave the tokens of the prompt out of the pooling, if the model does so."""
    chain = network.output_map.apply
    if not encoder.prompt or not isinstance(chain, Chain) or chain.includes_prompt:
        return encoder
    ids = encoder.tokenizer(
        encoder.prompt, truncation=True, max_length=encoder.max_length
    )["input_ids"]
    ended = ids[-1] in encoder.tokenizer.all_special_ids
    return replace(encoder, unpooled=len(ids) - ended)
