"""Output maps by name: which C numbers per example are f.

Every map is L2-normalised unless its name ends in ``-raw``; ``sentence-transformers``
is whatever the modules of a directory of that library make of its encoder, and the
usual map there. They are plain torch, without control flow that depends on data, so
``torch.func`` can go through them.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Batch, OutputMap
from kfac_artifacts.sources.calling import call
from kfac_artifacts.sources.distribution_maps import distribution_map
from kfac_artifacts.sources.sentence_transformers import (
    MODES,
    NAME,
    Declaration,
    build_chain,
    declaration_of,
    real_positions,
)

Pool: TypeAlias = Callable[[nn.Module, Batch], Tensor]

RAW = "-raw"
HAS_CLASS_TOKEN = frozenset(
    {
        "beit",
        "clip_vision_model",
        "data2vec-vision",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "vit",
        "vit_mae",
        "vit_msn",
    }
)
SAME_POOLING = {"cls": "cls", "lasttoken": "last-token", "mean": "mean-pool"}
"""What sentence-transformers calls the maps that are here without its modules."""
PADDED = frozenset({"siglip_text_model", "siglip2_text_model"})
"""Text towers that pool the last position, padding or not, of texts padded to their
maximum."""
NOT_POOLED = frozenset({"blip-2", "flava"})
"""Models whose features of an image or a text are one for each of its tokens."""


def _pooled_by(mode: str) -> Pool:
    def pool(module: nn.Module, batch: Batch) -> Tensor:
        hidden = _hidden(module, batch)
        real = real_positions(hidden, batch)
        return MODES[mode](hidden, real, real)

    return pool


def _cls_and_patches(module: nn.Module, batch: Batch) -> Tensor:
    hidden = _hidden(module, batch)
    others = 1 + int(getattr(module.config, "num_register_tokens", 0))
    return torch.cat([hidden[:, 0], hidden[:, others:].mean(1)], dim=1)


def _pooler(module: nn.Module, batch: Batch) -> Tensor:
    return _embedding(call(module, batch), "pooler_output", module).flatten(1)


def _image_embedding(module: nn.Module, batch: Batch) -> Tensor:
    pixels = {"pixel_values": batch["pixel_values"]}
    if _has_two_towers(module):
        outputs = call(module.get_image_features, pixels)  # type: ignore[arg-type]
        return _embedding(outputs, "pooler_output", module)
    return _embedding(call(module, pixels), "image_embeds", module)


def _text_embedding(module: nn.Module, batch: Batch) -> Tensor:
    if _has_two_towers(module):
        features: Any = module.get_text_features
        taken = inspect.signature(features).parameters
        outputs = call(features, {n: v for n, v in batch.items() if n in taken})
        return _embedding(outputs, "pooler_output", module)
    return _embedding(call(module, batch), "text_embeds", module)


def _embedding(outputs: Any, name: str, module: nn.Module) -> Tensor:
    found = getattr(outputs, name, None)
    if found is None:
        what = "pooler" if name == "pooler_output" else name
        raise SourceError(f"a {type(module).__name__} has no {what} to take as f")
    return found


def _hidden(module: nn.Module, batch: Batch) -> Tensor:
    hidden = _embedding(call(module, batch), "last_hidden_state", module)
    return hidden.flatten(2).mT if hidden.ndim == 4 else hidden  # a map of features


OUTPUT_MAPS: dict[str, Pool] = {
    "clip-image": _image_embedding,
    "clip-text": _text_embedding,
    "cls": _pooled_by("cls"),
    "cls-patches": _cls_and_patches,
    "last-token": _pooled_by("lasttoken"),
    "mean-pool": _pooled_by("mean"),
    "pooler": _pooler,
}

KNOWN = {*OUTPUT_MAPS, NAME}


def output_map(module: nn.Module, name: str | None = None) -> OutputMap:
    """Find an output map of a model by name, or the usual one of its architecture.

    Args:
        module: A ``transformers`` model.
        name: One of ``OUTPUT_MAPS``, with ``-raw`` behind it to leave the output as
            long as it is; one of a head (``distribution_maps``); None for what the
            model's class, directory or architecture says.

    Returns:
        The output map.

    Raises:
        SourceError: If the name is unknown, or does not fit the model.
    """
    of_head = distribution_map(module, name)
    if of_head is not None:
        return of_head
    fitting = _fitting(module, name or "")
    declaration = declaration_of(module) if name in {None, NAME} else None
    if declaration is not None:
        if "mean-pool" not in fitting:
            declaration.refuse(f"its encoder gives {' and '.join(fitting)}")
        return _declared(declaration, module)
    name = name or _default(module, fitting)
    pooling = name.removesuffix(RAW)
    if pooling not in fitting:
        problem = "does not fit" if pooling in KNOWN else "is unknown; fit for"
        raise SourceError(
            f"output map {name!r} {problem} a {type(module).__name__}: use one of "
            f"{', '.join(fitting)}, with {RAW} behind it for no normalisation"
        )
    pool = OUTPUT_MAPS[pooling]
    return OutputMap(
        NamedConfig(name),
        pool if name.endswith(RAW) else _normalised(pool),
        reads_padding=pads_to_maximum(module) and pooling in {"clip-text", "pooler"},
    )


def pads_to_maximum(module: nn.Module) -> bool:
    """Whether texts are padded to the longest that the model takes, whatever it is."""
    config: Any = module.config
    return config.get_text_config().model_type in PADDED


def text_map(module: nn.Module, image_map: str) -> OutputMap:
    """The map of the text tower that belongs to the map of the image tower."""
    return output_map(module, image_map.replace("clip-image", "clip-text"))


def inputs(module: nn.Module, name: str) -> str:
    """Name of the model's argument that an output map feeds.

    Args:
        module: A ``transformers`` model.
        name: Name of its output map.

    Returns:
        ``pixel_values``, ``input_ids``, or what else the model says it takes.
    """
    if name.startswith("clip-image"):
        return "pixel_values"
    return str(getattr(module, "main_input_name", "input_ids"))


def _normalised(pool: Pool) -> Pool:
    def normalised(module: nn.Module, batch: Batch) -> Tensor:
        output = pool(module, batch)
        return output / output.norm(dim=-1, keepdim=True)

    return normalised


def _declared(declaration: Declaration, module: nn.Module) -> OutputMap:
    """What a directory of sentence-transformers declares; by a shorter name if any."""
    info, chain = build_chain(declaration, module)
    steps: Any = info.configuration["modules"]
    usual: list[dict[str, Any]] = [{"type": "Normalize"}]
    modes = steps[0].get("pooling_mode", [])
    plain = len(modes) == 1 and modes[0] in SAME_POOLING and len(steps[0]) == 2
    if plain and steps[1:] in ([], usual) and chain.dimensions is None:
        name = SAME_POOLING[modes[0]]
        if not steps[1:]:
            return OutputMap(NamedConfig(name + RAW), OUTPUT_MAPS[name])
        return OutputMap(NamedConfig(name), _normalised(OUTPUT_MAPS[name]))
    return OutputMap(info, chain)


def _has_two_towers(module: nn.Module) -> bool:
    return hasattr(module, "get_image_features") and hasattr(
        module, "get_text_features"
    )


def _fitting(module: nn.Module, wanted: str) -> tuple[str, ...]:
    kind = type(module).__name__
    texts, images = (
        hasattr(module, f"get_{what}_features") for what in ("text", "image")
    )
    if (texts and not images) or str(module.config.model_type) in NOT_POOLED:  # type: ignore[union-attr]
        raise SourceError(
            f"a {kind} has no embedding of a whole text or image that is known here; "
            "give the directory of its text or its vision model alone"
        )
    if not (_takes_images(module) or (texts and wanted.startswith("clip-text"))):
        raise SourceError(
            f"a {kind} takes images of any size, as patches with their shapes; only "
            "images of one size are handled"
            f"{', and its texts by the output map clip-text' * texts}"
        )
    if texts and images:
        return "clip-image", "clip-text"
    if kind.endswith("VisionModelWithProjection"):
        return ("clip-image",)
    if kind.endswith("TextModelWithProjection"):
        return ("clip-text",)
    usual = "mean-pool", "cls", "last-token", "pooler"
    has_class_token = str(module.config.model_type) in HAS_CLASS_TOKEN  # type: ignore[union-attr]
    return (*usual, "cls-patches") if has_class_token else usual


def _takes_images(module: nn.Module) -> bool:
    """Whether pixels are all that a model of images needs; true of other models."""
    tower: Any = getattr(module, "vision_model", module)
    return "spatial_shapes" not in inspect.signature(tower.forward).parameters


def _default(module: nn.Module, fitting: tuple[str, ...]) -> str:
    if "mean-pool" not in fitting:
        return fitting[0]
    kind = str(getattr(module.config, "model_type", ""))
    if kind in HAS_CLASS_TOKEN:
        return "cls"
    if getattr(module.config, "use_bidirectional_attention", None) is True:
        return "mean-pool"  # a decoder that was made an encoder, as EmbeddingGemma
    decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "last-token" if decoder and not encoder else "mean-pool"
