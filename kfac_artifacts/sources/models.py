"""Pretrained ``transformers`` models, by Hub id or local directory.

Weights are read from safetensors only, in float32, and no code of a repository is run.
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from kfac_artifacts.choices import EMBEDDING
from kfac_artifacts.errors import SourceError, first_line
from kfac_artifacts.network import Network
from kfac_artifacts.sources.architectures import config_options, model_class
from kfac_artifacts.sources.download import download
from kfac_artifacts.sources.layouts import (
    WEIGHTS,
    adapter_base,
    without_config,
    without_weights,
)
from kfac_artifacts.sources.locating import check_model
from kfac_artifacts.sources.model_heads import usual_head_map
from kfac_artifacts.sources.output_maps import output_map as find_output_map
from kfac_artifacts.sources.own_models import is_function, load_own, refuse_function
from kfac_artifacts.sources.sentence_transformers import read_declaration, read_json
from kfac_artifacts.sources.silence_libraries import quiet
from kfac_artifacts.sources.untrusted_config import check_config, no_kernels

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
DOWNLOADED = (
    "*.json",
    "*.txt",
    "*.model",
    "model.safetensors",
    "model-*.safetensors",
    "[0-9]*/model*.safetensors",  # modules of sentence-transformers
)
HUB_ID = re.compile(r"(?:hf://)?(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>\S+))?")


@dataclass(frozen=True)
class Location:
    """Where the files of a model are, and what it is called."""

    directory: Path
    id: str
    revision: str | None = None

    @cached_property
    def encoder(self) -> Path:
        """Where the encoder's files are: in older sentence-transformers a folder."""
        declaration = read_declaration(self.directory)
        return self.directory if declaration is None else declaration.encoder


def load_network(
    model: str | Path,
    *,
    output_map: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    model_id: str | None = None,
) -> Network:
    """Load a pretrained encoder or vision model with its output map.

    Args:
        model: A directory in the layout of ``transformers``, or a Hub id, with
            ``@revision`` behind it for another revision than ``main``; or a function of
            your own, ``module:function``, which is run (``own_models``).
        output_map: Name of the output map; None for the usual one of the model:
            ``lm-fisher`` of what was saved to predict the next token, and else that of
            ``embedding``, the usual one without a head.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        dtype: What to compute in. Hashes are those of the weights in float32.
        model_id: What to call the model in artifacts; None for the Hub id, or the
            name of the directory.

    Returns:
        The network, in evaluation mode.

    Raises:
        SourceError: If there is no such model, it cannot be read, its weights are not
            finite, or the device or the output map is not available.
    """
    number_type = number_type_of(dtype)
    place = device_of(device)
    if is_function(model):
        if output_map not in {None, EMBEDDING}:
            raise SourceError(f"{model} says itself what f is; drop --output-map")
        return load_own(str(model), model_id=model_id).to(place, number_type)
    location = locate(str(model))
    name = chosen_map(location, output_map)
    module = load_module(location, name)
    _check_finite(module, location.id)
    chosen = find_output_map(module, name)
    network = Network(module, chosen, model_id or location.id, location.revision)
    return network.to(place, number_type)


def number_type_of(dtype: str) -> torch.dtype:
    """Look up a number type by name.

    Args:
        dtype: One of ``DTYPES``.

    Returns:
        The number type.

    Raises:
        SourceError: If there is no such type.
    """
    if dtype not in DTYPES:
        raise SourceError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def locate(model: str, files: Sequence[str] = DOWNLOADED) -> Location:
    """Find the directory of a model, downloading it from the Hub if need be.

    Args:
        model: A directory, or a Hub id with or without ``@revision``.
        files: Patterns of the files to download.

    Returns:
        The directory, the id to record and the Hub's commit.

    Raises:
        SourceError: If there is neither such a directory nor such a Hub model.
    """
    check_model(model)
    refuse_function(
        model,
        "what was asked needs a checkpoint of transformers",
    )
    directory = Path(model).expanduser()
    if directory.is_dir():
        nameless = directory.name in {"", ".."}
        named = directory.resolve() if nameless else directory
        return Location(directory, named.name)
    name = HUB_ID.fullmatch(model)
    if name is None or directory.exists():
        raise SourceError(f"model {model!r} is neither a directory nor a Hub id")
    found = download("model", name["id"], name["revision"], files)
    return Location(found, name["id"], found.name)


def chosen_map(location: Location, output_map: str | None) -> str | None:
    """Say which output map is meant, before the class is chosen that computes it.

    Args:
        location: Where the model is.
        output_map: Name of a map, ``embedding``, or None.

    Returns:
        The name of a map; None for the usual one of the model without a head.
    """
    if output_map is None and read_declaration(location.directory) is None:
        return usual_head_map(read_config(location))
    return None if output_map == EMBEDDING else output_map


def load_module(location: Location, output_map: str | None = None) -> nn.Module:
    """Load the module of a model on the processor, in float32.

    Args:
        location: Where the model is.
        output_map: Name of the map that f will be; None for one without a head.

    Returns:
        The module, in evaluation mode.

    Raises:
        SourceError: If it cannot be read, or lacks weights.
    """
    config = read_config(location)
    kind = model_class(config, location.id, output_map)
    if not any((location.encoder / name).exists() for name in WEIGHTS):
        raise SourceError(
            f"{location.id} has no safetensors weights ({' or '.join(WEIGHTS)}): "
            f"{without_weights(location.encoder)}"
        )
    options = config_options(kind, config)
    module, missing = _from_pretrained(kind, location, **options)
    if _may_lack_pooler(module, missing):
        options["add_pooling_layer"] = False
        module, missing = _from_pretrained(kind, location, **options)
    if missing:
        saved = (config.get("architectures") or ["another class"])[0]
        raise SourceError(
            f"{location.id}, saved as {saved}, lacks {len(missing)} weights of the "
            f"{type(module).__name__} that f is of; the first is {min(missing)}, and "
            "they would be random. If it has them within another model, save that part "
            "by itself with save_pretrained"
        )
    return module.eval()


def read_config(location: Location) -> dict[str, Any]:
    """Read the configuration of a model of a known architecture.

    Args:
        location: Where the model is.

    Returns:
        The content of ``config.json``.

    Raises:
        SourceError: If there is none, or ``transformers`` has no such architecture.
    """
    path = location.encoder / "config.json"
    adapter = adapter_base(location.encoder)
    if not path.is_file() or adapter is not None:
        missing = "" if path.is_file() else " has no config.json"
        found = adapter or without_config(location.directory)
        raise SourceError(f"{location.id}{missing}: {found}")
    config: dict[str, Any] = read_json(path, dict)
    if "model_type" not in config and "architecture" in config:
        raise SourceError(
            f"{location.id} is a model of timm ({config['architecture']}): give the "
            "same model in the layout of transformers"
        )
    if "model_type" not in config:
        found = without_config(location.directory)
        raise SourceError(f"{location.id}: its config.json is of no model: {found}")
    if config["model_type"] not in transformers.CONFIG_MAPPING:
        raise SourceError(
            f"{location.id} is of architecture {config['model_type']!r}, which "
            f"transformers {transformers.__version__} does not have; models that bring "
            "code of their own are not run"
        )
    check_config(config, location.id)
    return config


def _from_pretrained(
    kind: Any, location: Location, **options: Any
) -> tuple[nn.Module, set[str]]:
    try:
        with quiet(), no_kernels():
            module, report = kind.from_pretrained(
                str(location.encoder),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise SourceError(
            f"{location.id} cannot be loaded: {first_line(error)}"
        ) from error
    return module, set(report["missing_keys"])


def _may_lack_pooler(module: nn.Module, missing: set[str]) -> bool:
    optional = "add_pooling_layer" in inspect.signature(type(module)).parameters
    return optional and any(name.startswith("pooler.") for name in missing)


def _check_finite(module: nn.Module, model_id: str) -> None:
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise SourceError(f"{model_id}: {name} holds values that are not finite")


def device_of(name: str) -> torch.device:
    """Look up a device by name; ``auto`` is a GPU if there is one.

    Args:
        name: As torch calls it, or ``auto``.

    Returns:
        The device.

    Raises:
        SourceError: If it is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own
        raise SourceError(
            f"device {name!r} is not available here; use auto, or for example cpu"
        ) from error
