"""Images to a model's keyword arguments, and texts to outputs of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor
from transformers import AutoImageProcessor

from kfac_artifacts.artifact import Json
from kfac_artifacts.capture import require_same
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.output_maps import inputs, text_map
from kfac_artifacts.sources.own_models import OwnNetwork
from kfac_artifacts.sources.processors import from_pretrained
from kfac_artifacts.sources.texts import load_text_encoder

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


def load_image_encoder(network: Network) -> ImageEncoder:
    """Load the image processor that came with a network."""
    return ImageEncoder(from_pretrained(AutoImageProcessor, network, "image processor"))


def encode_texts(
    network: Network,
    texts: Sequence[str],
    *,
    prompt: str | None = None,
    max_length: int | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "k c"]:
    """Encode texts by the network, or by the text tower beside its image tower.

    Args:
        network: A text encoder, or a model with two towers such as CLIP.
        texts: What to encode, for example a name or description of every class.
        prompt: What is put before every text; None for what the model declares.
        max_length: Tokens after which texts are cut off; None for what the model takes.
        batch_size: Texts per forward pass.

    Returns:
        One output per text, comparable with the network's own, without gradient.

    Raises:
        SourceError: If there are no texts, or the network has no way to read them.
        CoverageError: If the output for a text depends on the others.
    """
    if not texts:
        raise SourceError("there are no texts to encode")
    if isinstance(network, OwnNetwork):
        raise SourceError(
            f"{network.function} may not be able to read the names of classes; "
            "classify by --head prototypes or linear"
        )
    name = network.output_map.info.name
    output_map = network.output_map
    if name.startswith("clip-image"):
        output_map = text_map(network.module, name)
    elif inputs(network.module, name) != "input_ids":
        raise SourceError(
            f"{network.id} cannot read texts, such as names of classes: it has no text "
            "tower; classify by --head prototypes, linear or own"
        )
    encoder = load_text_encoder(network, max_length, prompt)

    tower = Network(network.module, output_map, network.id, network.revision)

    def encode(rows: Sequence[str]) -> Tensor:
        return tower(encoder([(text,) for text in rows]))

    starts = range(0, len(texts), batch_size)
    with torch.no_grad():
        outputs = torch.cat([encode(texts[i : i + batch_size]) for i in starts])
        short = min(range(len(texts)), key=lambda i: len(texts[i]))
        alone = encode([texts[short]])[0]
    require_same(output_map, alone, outputs[short], f"text {short}")
    return outputs


def _plain(value: Any) -> Json:
    if isinstance(value, Mapping):
        return {key: entry for key, entry in value.items() if entry is not None}
    return list(value) if isinstance(value, tuple) else value
