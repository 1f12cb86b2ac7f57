"""Which models of ``transformers`` have a head that gives distributions, by class."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from kfac_artifacts.errors import SourceError

LM, LM_RAW, LOGITS = "lm-fisher", "lm-fisher-raw", "logits-fisher"
"""The output maps of heads."""
FIRST = "decoder-start-raw"
"""The output map of an encoder-decoder that is to answer by one token."""


class Head(Enum):
    """What a head gives distributions of."""

    CAUSAL = "the next token"
    MASKED = "tokens that are masked"
    SEQ2SEQ = "the next token of a second text"
    CLASSIFIER = "classes"

    @property
    def output_maps(self) -> tuple[str, ...]:
        """The maps whose f is made of them."""
        if self is Head.SEQ2SEQ:
            return LM, LM_RAW, FIRST
        return (LOGITS,) if self is Head.CLASSIFIER else (LM, LM_RAW)


def _names(*mappings: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(name) for mapping in mappings for name in mapping.values())


_CLASSES = {
    Head.SEQ2SEQ: _names(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    Head.MASKED: _names(MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    Head.CAUSAL: _names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    Head.CLASSIFIER: _names(
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    ),
}


def head_of(class_name: str) -> Head | None:
    """Say what the head of a class gives, by the name of the class.

    Args:
        class_name: As in ``architectures`` of a ``config.json``.

    Returns:
        The kind of its head; None if it has none that is known.
    """
    return next((h for h, names in _CLASSES.items() if class_name in names), None)


def saved_as(config: Mapping[str, Any]) -> str:
    """Name of the class that a model was saved as; empty if that is not told."""
    return str((config.get("architectures") or [""])[0])


def usual_head_map(config: Mapping[str, Any]) -> str | None:
    """The output map of a head that a model was saved with, if people use it for that.

    Args:
        config: The content of ``config.json``.

    Returns:
        ``lm-fisher`` of what predicts the next token; None of others: masked tokens
        are what encoders were pretrained by, and not what they are fine-tuned for.
    """
    return LM if head_of(saved_as(config)) is Head.CAUSAL else None


def class_with_head(config: Mapping[str, Any], output_map: str, model_id: str) -> Any:
    """The class that a model was saved as, for an output map of its head.

    Args:
        config: The content of ``config.json``.
        output_map: The map.
        model_id: What to call the model in the error.

    Returns:
        A class of ``transformers``.

    Raises:
        SourceError: If it was saved without such a head.
    """
    name = saved_as(config)
    head = head_of(name)
    if head is None or output_map not in head.output_maps:
        kinds = [h.value for h in Head if output_map in h.output_maps]
        raise SourceError(
            f"{model_id} was saved as {name or 'no class'}, without a head that gives "
            f"{' or '.join(kinds)}, as the output map {output_map} needs; give a "
            "checkpoint that has one, or another --output-map"
        )
    return getattr(transformers, name)


def is_head_map(name: str | None) -> bool:
    """Whether an output map is one of heads."""
    return any(name in head.output_maps for head in Head)
