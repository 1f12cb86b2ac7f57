"""Adapters of ``peft`` on disk, as task vectors: what ``kfac apply`` adds to a model.

They are read as files of strangers: JSON and safetensors, never a pickle, and nothing
of ``peft`` is run. What a configuration asks for beside LoRA and rsLoRA is refused by
name, since the product of the matrices would not be what the adapter does.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kfac_artifacts.artifact import BaseModel
from kfac_artifacts.errors import FormatError, MismatchError, listed
from kfac_artifacts.format import read_json
from kfac_artifacts.network import parameter_info
from kfac_artifacts.sources.checkpoint import find_places, open_checkpoint
from kfac_artifacts.sources.meta_model import build_module
from kfac_artifacts.sources.model_heads import head_of, saved_as
from kfac_artifacts.sources.models import Location, locate, read_config
from kfac_artifacts.task_vector import TaskVector

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BEFORE = "base_model.model."
"""What stands before all names."""
MATRICES = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
LITERAL = re.compile(r"\^?[\w.\-]+")
"""A pattern of names that is a name; others are programs of their own."""
MOST_ALPHA = 1e9
REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "lora_bias": "biases of its own",
    "modules_to_save": "whole modules",
    "trainable_token_indices": "tokens of its own",
    "layer_replication": "replicated layers",
    "target_parameters": "parameters of experts",
}
"""Entries that make an adapter more, or something else, than a product."""


def load_adapter(path: str | Path, model: str | Path) -> TaskVector:
    """Read an adapter as what it adds to the weights of a model, in float32.

    Args:
        path: The adapter's directory.
        model: The model that it is for, a directory or a Hub id. Nothing in an adapter
            tells its weights from others of the same names and shapes.

    Returns:
        The task vector ``s V U`` of every weight with an adapter.

    Raises:
        FormatError: If the files are not those of an adapter, or it is none whose
            changes are products.
        MismatchError: If the model has no weights of these names and shapes.
        SourceError: If there is no such model.
    """
    path, location = Path(path), locate(str(model))
    config = _read_config(path)
    products = {
        f"{name}.weight": (_scale(config, name, U), V, U)
        for name, (U, V) in _read_matrices(path).items()
    }
    module = _class_of(location, products, path)
    tensors = {
        name: _change(name, module, scale, V, U, path)
        for name, (scale, V, U) in products.items()
    }
    checkpoint = open_checkpoint(location.encoder, location.id)
    places = find_places(location, checkpoint, tensors.keys())
    infos = {n: parameter_info(places[n].read(checkpoint)) for n in tensors}
    base = BaseModel(location.id, location.revision, infos)
    return TaskVector(tensors, base, settings={"adapter": "lora"})


def _read_config(path: Path) -> Mapping[str, Any]:
    config = read_json(path / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise FormatError(
            f"{path} is an adapter of kind {str(kind)[:50]!r}; a LoRA is added, others "
            "have to be merged by peft (merge_and_unload) first"
        )
    asked = [f"{what} ({key})" for key, what in REFUSED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        asked.append("biases that move (bias)")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in {
        "gaussian",
        "eva",
        "orthogonal",
    }:
        asked.append(f"other base weights (init_lora_weights {start[:30]!r})")
    if asked:
        raise FormatError(
            f"{path} is an adapter with {listed(asked)}, which is more than a product "
            "added to weights; merge it by peft (merge_and_unload) and save the model"
        )
    return config


def _scale(config: Mapping[str, Any], name: str, U: Tensor) -> float:
    """``alpha / r``, or ``alpha / √r``, of a layer."""
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise FormatError("alpha_pattern of the adapter is no object")
    for pattern, own in patterns.items():
        if not LITERAL.fullmatch(pattern):
            raise FormatError(
                f"alpha_pattern of the adapter has {pattern[:50]!r}, an expression, "
                "which is not run; merge it by peft (merge_and_unload)"
            )
        plain = pattern.removeprefix("^")
        if name == plain or (plain == pattern and name.endswith(f".{plain}")):
            alpha = own
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise FormatError(
            f"lora_alpha of the adapter is {str(alpha)[:50]!r}, no number"
        )
    if not abs(alpha) < MOST_ALPHA:
        raise FormatError("lora_alpha of the adapter is not finite, or very large")
    rank = len(U)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_matrices(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """U and V by the path of their layer."""
    file = path / WEIGHTS
    if not file.is_file():
        raise FormatError(
            f"{path} has no {WEIGHTS}; adapters in pickles (adapter_model.bin) are not "
            "read: load it with peft, and save it with save_pretrained"
        )
    found: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - it is no mapping
                matched = MATRICES.fullmatch(key.removeprefix(BEFORE))
                if matched is None:
                    raise FormatError(
                        f"{file} has {key[:100]!r}, which is no matrix of a LoRA; "
                        "merge the adapter by peft (merge_and_unload)"
                    )
                found.setdefault(matched[1], {})[matched[2]] = opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{file} is not a valid safetensors file: {error}") from error
    if not found:
        raise FormatError(f"{file} has no matrix")
    return {name: _pair(file, name, parts) for name, parts in found.items()}


def _pair(file: Path, name: str, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """U and V as matrices, those of a convolution flattened."""
    if parts.keys() != {"A", "B"}:
        raise FormatError(f"{file}: {name[:100]} has but one of its two matrices")
    U, V = parts["A"], parts["B"]
    shaped = U.ndim >= 2 and V.ndim >= 2 and U.is_floating_point()
    fits = shaped and 0 < len(U) == V.flatten(1).shape[1]
    if not fits or not V.is_floating_point():
        raise FormatError(
            f"{file}: {name[:100]} has matrices {[*U.shape]} and {[*V.shape]}, of "
            "which there is no product"
        )
    both = U.flatten(1).float(), V.flatten(1).float()
    if not all(bool(each.isfinite().all()) for each in both):
        raise FormatError(f"{file}: {name[:100]} has numbers that are not finite")
    return both


def _class_of(location: Location, names: Mapping[str, Any], path: Path) -> nn.Module:
    """The network without its head or with it, whichever has all names."""
    bare: nn.Module = build_module(location)
    built = [bare]
    head = head_of(saved_as(read_config(location)))
    if head is not None:
        built.append(build_module(location, head.output_maps[0]))
    for module in built:
        if names.keys() <= dict(module.named_parameters()).keys():
            return module
    known = {n for module in built for n, _ in module.named_parameters()}
    missing = sorted(names.keys() - known) or sorted(names)
    raise MismatchError(
        f"{path} is for another model than {location.id}, which has no "
        f"{listed([name[:100] for name in missing], 3)}"
    )


def _change(
    name: str, module: nn.Module, scale: float, V: Tensor, U: Tensor, path: Path
) -> Tensor:
    """``s V U`` as the layer has its weight."""
    layer = module.get_submodule(name.removesuffix(".weight"))
    weight = module.get_parameter(name)
    tied = [
        n for n, p in module.named_parameters(remove_duplicate=False) if p is weight
    ]
    if len(tied) > 1:
        raise FormatError(
            f"{path} changes {name}, which is tied to {listed(tied[1:])}: the adapter "
            "moves one of them, and the model has a single tensor for both"
        )
    shape = weight.shape
    columns = isinstance(layer, Conv1D | nn.Embedding)
    rows, width = len(V), U.shape[1]
    wanted = (width, rows) if columns else (rows, width)
    if shape.numel() != rows * width or (shape[0], shape[1:].numel()) != wanted:
        raise MismatchError(
            f"{path} is for another model: {name} is {[*shape]} there, and the adapter "
            f"makes {[rows, width]} of it"
        )
    change = scale * (V @ U)
    if not bool(change.isfinite().all()):
        raise FormatError(f"{path} changes {name} by numbers that are not finite")
    return (change.mT if columns else change).reshape(shape).contiguous()
