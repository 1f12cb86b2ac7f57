"""Raw texts and images to a model's keyword arguments, by the model's own processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.output_maps import inputs, text_map
from kfac_artifacts.sources.quiet import quiet

DEFAULT_MAX_LENGTH = 512
NO_LIMIT = 10**9
FEWEST_WORDS = 2  # without its files, transformers makes up a tokenizer of no words
RECORDED = (
    "image_processor_type",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer that pads on the right to the longest text of a batch.

    Attributes:
        tokenizer: The model's tokenizer.
        max_length: Texts are cut off behind so many tokens.
    """

    tokenizer: Any
    max_length: int

    def __call__(self, rows: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """Encode rows of one text each, or of two that form a pair."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        encoded = self.tokenizer(
            *columns,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return dict(encoded)


@dataclass(frozen=True)
class ImageEncoder:
    """The model's image processor."""

    processor: Any

    def __call__(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Encode RGB images of any size."""
        encoded = self.processor(images=list(images), return_tensors="pt")
        return {"pixel_values": encoded["pixel_values"]}

    @property
    def configuration(self) -> dict[str, Json]:
        """What the processor does, as recorded in artifacts."""
        values = self.processor.to_dict()
        return {k: _plain(values[k]) for k in RECORDED if values.get(k) is not None}


def load_text_encoder(network: Network, max_length: int | None = None) -> TextEncoder:
    """Load the tokenizer that came with a network.

    Args:
        network: A network whose module was loaded by ``from_pretrained``.
        max_length: Tokens after which texts are cut off; None for what the model can
            take, but at most 512.

    Returns:
        The encoder.

    Raises:
        SourceError: If there is no tokenizer, or the model is made for shorter texts.
    """
    tokenizer = _from_pretrained(AutoTokenizer, network, "tokenizer")
    words = len(tokenizer) - len(set(tokenizer.all_special_ids))
    if words < FEWEST_WORDS:
        raise SourceError(f"{network.id} has no tokenizer beside its weights")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise SourceError(
                f"the tokenizer of {network.id} has neither a padding nor an end token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    positions = positions_of(network.module)
    if max_length is not None and not 1 <= max_length <= positions:
        raise SourceError(
            f"max_length {max_length} is not within 1 and the {positions} positions of "
            f"{network.id}"
        )
    limit = min(tokenizer.model_max_length, positions, DEFAULT_MAX_LENGTH)
    return TextEncoder(tokenizer, max_length or limit)


def load_image_encoder(network: Network) -> ImageEncoder:
    """Load the image processor that came with a network."""
    return ImageEncoder(
        _from_pretrained(AutoImageProcessor, network, "image processor")
    )


def encode_texts(
    network: Network, texts: Sequence[str], *, batch_size: int = 64
) -> Float[Tensor, "k c"]:
    """Encode texts by the network, or by the text tower beside its image tower.

    Args:
        network: A text encoder, or a model with two towers such as CLIP.
        texts: What to encode, for example a name or description of every class.
        batch_size: Texts per forward pass.

    Returns:
        One output per text, comparable with the network's own, without gradient.

    Raises:
        SourceError: If the network has no way to read texts.
    """
    name = network.output_map.info.name
    output_map = network.output_map
    if name.startswith("clip-image"):
        output_map = text_map(network.module, name)
    elif inputs(network.module, name) != "input_ids":
        raise SourceError(f"{network.id} cannot read texts: it has no text tower")
    encoder = load_text_encoder(network)
    outputs = []
    with torch.no_grad():
        for start in range(0, len(texts), batch_size):
            batch = encoder([(text,) for text in texts[start : start + batch_size]])
            outputs.append(output_map.apply(network.module, network.to_device(batch)))
    return torch.cat(outputs)


def positions_of(module: nn.Module) -> int:
    """How many tokens a text model can take; a huge number if there is no limit."""
    config = module.config.get_text_config()  # type: ignore[operator, union-attr]
    most = getattr(config, "max_position_embeddings", None) or NO_LIMIT
    return most if most > 0 else NO_LIMIT  # XLNet says -1


def _from_pretrained(kind: Any, network: Network, what: str) -> Any:
    source = getattr(network.module, "name_or_path", "")
    try:
        with quiet():
            return kind.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise SourceError(
            f"{network.id} has no {what} beside its weights that transformers can load"
        ) from error


def _plain(value: Any) -> Json:
    if isinstance(value, Mapping):
        return {key: entry for key, entry in value.items() if entry is not None}
    return list(value) if isinstance(value, tuple) else value
