"""Output maps by name: which C numbers per example are f.

Every map is L2-normalised unless its name ends in ``-raw``. They are plain torch,
without control flow that depends on data, so ``torch.func`` can go through them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from kfac_artifacts.artifact import Named
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Batch, OutputMap

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
DECLARED_POOLING = {  # in the directories of sentence-transformers
    "pooling_mode_mean_tokens": "mean-pool",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last-token",
    "mean": "mean-pool",
    "cls": "cls",
    "lasttoken": "last-token",
}


def _mean_pool(module: nn.Module, batch: Batch) -> Tensor:
    hidden = _hidden(module, batch)
    if "attention_mask" not in batch:
        return hidden.mean(1)
    mask = batch["attention_mask"].to(hidden.dtype)[..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


def _first_token(module: nn.Module, batch: Batch) -> Tensor:
    return _hidden(module, batch)[:, 0]


def _last_token(module: nn.Module, batch: Batch) -> Tensor:
    hidden = _hidden(module, batch)
    if "attention_mask" not in batch:
        return hidden[:, -1]
    last = batch["attention_mask"].sum(1) - 1  # padding is on the right
    index = last[:, None, None].expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index)[:, 0]


def _pooler(module: nn.Module, batch: Batch) -> Tensor:
    pooled = module(**batch).pooler_output
    if pooled is None:
        raise SourceError("output map 'pooler': this model has no pooler")
    return pooled.flatten(1)


def _image_embedding(module: nn.Module, batch: Batch) -> Tensor:
    pixels = batch["pixel_values"]
    if _has_two_towers(module):
        return module.get_image_features(pixel_values=pixels).pooler_output  # type: ignore[operator]
    return module(pixel_values=pixels).image_embeds


def _text_embedding(module: nn.Module, batch: Batch) -> Tensor:
    if _has_two_towers(module):
        return module.get_text_features(**batch).pooler_output  # type: ignore[operator]
    return module(**batch).text_embeds


def _hidden(module: nn.Module, batch: Batch) -> Tensor:
    hidden = module(**batch).last_hidden_state
    return hidden.flatten(2).mT if hidden.ndim == 4 else hidden  # a map of features


OUTPUT_MAPS: dict[str, Pool] = {
    "clip-image": _image_embedding,
    "clip-text": _text_embedding,
    "cls": _first_token,
    "last-token": _last_token,
    "mean-pool": _mean_pool,
    "pooler": _pooler,
}


def output_map(module: nn.Module, name: str | None = None) -> OutputMap:
    """Find an output map of a model by name, or the usual one of its architecture.

    Args:
        module: A ``transformers`` model.
        name: One of ``OUTPUT_MAPS``, with ``-raw`` behind it to leave the output as
            long as it is; None for what the model's directory or architecture says.

    Returns:
        The output map.

    Raises:
        SourceError: If the name is unknown, or does not fit the model.
    """
    fitting = _fitting(module)
    name = name or _default(module, fitting)
    pooling = name.removesuffix(RAW)
    if pooling not in fitting:
        problem = "does not fit" if pooling in OUTPUT_MAPS else "is unknown; fit for"
        raise SourceError(
            f"output map {name!r} {problem} a {type(module).__name__}: use one of "
            f"{', '.join(fitting)}, with {RAW} behind it for no normalisation"
        )
    pool = OUTPUT_MAPS[pooling]
    return OutputMap(Named(name), pool if name.endswith(RAW) else _normalised(pool))


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


def _has_two_towers(module: nn.Module) -> bool:
    return hasattr(module, "get_image_features") and hasattr(
        module, "get_text_features"
    )


def _fitting(module: nn.Module) -> tuple[str, ...]:
    if _has_two_towers(module):
        return "clip-image", "clip-text"
    if type(module).__name__.endswith("VisionModelWithProjection"):
        return ("clip-image",)
    if type(module).__name__.endswith("TextModelWithProjection"):
        return ("clip-text",)
    return "mean-pool", "cls", "last-token", "pooler"


def _default(module: nn.Module, fitting: tuple[str, ...]) -> str:
    if "mean-pool" not in fitting:
        return fitting[0]
    declared = _declared_pooling(Path(str(getattr(module, "name_or_path", ""))))
    if declared is not None:
        return declared
    kind = str(getattr(module.config, "model_type", ""))
    if kind in HAS_CLASS_TOKEN:
        return "cls"
    decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "last-token" if decoder and not encoder else "mean-pool"


def _declared_pooling(directory: Path) -> str | None:
    listing = directory / "modules.json"
    if not listing.is_file():
        return None
    modules = json.loads(listing.read_text("utf-8"))
    folders = [m["path"] for m in modules if m["type"].endswith(".Pooling")]
    if len(folders) != 1:
        return None
    config = json.loads((directory / folders[0] / "config.json").read_text("utf-8"))
    modes = (
        [config["pooling_mode"]]
        if "pooling_mode" in config
        else [
            mode
            for mode, on in config.items()
            if mode.startswith("pooling_mode_") and on
        ]
    )
    if len(modes) != 1 or modes[0] not in DECLARED_POOLING:
        raise SourceError(
            f"{directory.name} pools by {', '.join(modes) or 'nothing'}, which is no "
            "output map here; choose one of mean-pool, cls and last-token"
        )
    return DECLARED_POOLING[modes[0]]
