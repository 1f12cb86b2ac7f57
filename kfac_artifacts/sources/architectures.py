"""Which class of ``transformers`` builds the network that f is of."""

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.model_heads import class_with_head, is_head_map, saved_as


def model_class(
    config: dict[str, Any], model_id: str, output_map: str | None = None
) -> Any:
    """Choose what builds a model: a class of ``transformers``, or an Auto class.

    Args:
        config: The content of ``config.json``.
        model_id: What to call the model in the error.
        output_map: What f will be, if it is said: of a head or not.

    Returns:
        A class with ``from_pretrained``.

    Raises:
        SourceError: If it is an encoder-decoder without an encoder by itself, or lacks
            the head that f is of.
    """
    if output_map is not None and is_head_map(output_map):
        return class_with_head(config, output_map, model_id)
    name = saved_as(config)
    if name.endswith(("VisionModelWithProjection", "TextModelWithProjection")):
        return getattr(transformers, name)
    if config["model_type"] in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return transformers.AutoModelForTextEncoding  # of T5, only the encoder
    if config.get("is_encoder_decoder"):
        family = transformers.CONFIG_MAPPING[config["model_type"]].__name__
        family = family.removesuffix("Config")
        encoder = getattr(transformers, f"{family}EncoderModel", None)
        if encoder is not None:
            return encoder
        raise SourceError(
            f"{model_id} is an encoder-decoder ({config['model_type']}), of which "
            "transformers has no encoder by itself; in Python, "
            "kfac.Network(model.get_encoder(), ...) takes the encoder as a module"
        )
    return transformers.AutoModel


def config_options(kind: Any, config: Mapping[str, Any]) -> dict[str, bool]:
    """What to change in a configuration, so that an encoder is built by itself.

    Args:
        kind: What ``model_class`` chose.
        config: The content of ``config.json``.

    Returns:
        Keyword arguments of ``from_pretrained``.
    """
    both = kind is transformers.AutoModelForTextEncoding and "decoder" in config
    return {"is_encoder_decoder": False} if both else {}
