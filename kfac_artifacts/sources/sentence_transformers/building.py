"""Building the modules that a directory declares behind its encoder, with weights."""

import hashlib
import re
from collections.abc import Callable, Container, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from kfac_artifacts.artifact import Json, NamedConfig
from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.sentence_transformers.declaration import Declaration, Step
from kfac_artifacts.sources.sentence_transformers.modules import (
    SENTENCE,
    Chain,
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    WeightedLayerPooling,
)
from kfac_artifacts.sources.sentence_transformers.pooling import LEGACY_MODES, MODES
from kfac_artifacts.sources.sentence_transformers.reading import read_json

NAME = "sentence-transformers"
WEIGHTS = "model.safetensors"
ACTIVATIONS = "torch.nn.modules.activation"


def build_chain(
    declaration: Declaration, module: nn.Module
) -> tuple[NamedConfig, Chain]:
    """Build the modules that a directory declares behind its encoder.

    Args:
        declaration: What the directory declares.
        module: The encoder; if it is on the meta device, so are they, without weights.

    Returns:
        The name of f with its configuration, and the modules.

    Raises:
        SourceError: If a module is not handled, or cannot be read.
    """
    declaration.check_encoder()
    steps: dict[str, nn.Module] = {}
    described: list[Json] = []
    includes_prompt = True
    for step in declaration.steps[1:]:
        if step.kind == "Dropout":
            continue  # f is the model in evaluation
        if step.kind not in BUILDERS:
            declaration.refuse(f"it has a module {step.kind}")
        folder = declaration.directory / step.folder
        config = _config(folder)
        built, settings = _build(step, config, folder, module)
        includes_prompt &= bool(settings.get("include_prompt", True))
        steps[_name(step, steps)] = built
        described.append({"type": step.kind, **settings})
    if not any(isinstance(built, Pooling) for built in steps.values()):
        declaration.refuse("it has no module that makes one embedding of the tokens")
    chain = Chain(
        steps,
        all_layers=_gives_all_layers(declaration, module),
        dimensions=declaration.dimensions,
        includes_prompt=includes_prompt,
    )
    info: dict[str, Json] = {"modules": described}
    if declaration.dimensions is not None:
        info["truncate_dim"] = declaration.dimensions
    return NamedConfig(NAME, info), chain


def _name(step: Step, taken: Container[str]) -> str:
    """The name of a module's folder, if it can be one and is not taken."""
    usual = re.fullmatch(r"\d+_\w+", step.folder) and step.folder not in taken
    numbers = (f"{number}_{step.kind}" for number in count(1))
    return step.folder if usual else next(n for n in numbers if n not in taken)


def _gives_all_layers(declaration: Declaration, module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    own = bool(getattr(config, "output_hidden_states", False))
    return own or declaration.gives_all_layers


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_json(path, dict) if path.is_file() else {}


def _build(
    step: Step, config: Mapping[str, Any], folder: Path, encoder: nn.Module
) -> tuple[nn.Module, dict[str, Json]]:
    place = folder.name
    try:
        built, settings = BUILDERS[step.kind](config, place)
    except SourceError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{place}: no {step.kind} can be built from its config.json "
            f"({type(error).__name__}: {error})"
        ) from error
    if not list(built.parameters()):
        return built, settings
    blank = any(p.is_meta for p in encoder.parameters())
    if blank:
        return built.to("meta"), settings
    return built, settings | {"sha256": _load(built, folder, place)}


def _load(built: nn.Module, folder: Path, place: str) -> str:
    """Fill a module from its safetensors file; gives the digest of its numbers."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(f.name for f in folder.glob("*.bin"))
        held = f"only {pickles[0]}, a pickle, which can run code" if pickles else "none"
        raise SourceError(
            f"{place} needs its weights in {WEIGHTS}; it has {held}. Where the model "
            "is trusted, SentenceTransformer(MODEL).save_pretrained(DIRECTORY) writes "
            "them"
        )
    try:
        tensors = load_file(path)
        built.load_state_dict({n: t.float() for n, t in tensors.items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{place}/{WEIGHTS} cannot be loaded: {reason}") from error
    digest = hashlib.sha256()
    for name, value in sorted(built.state_dict().items()):
        if not torch.isfinite(value).all():
            raise SourceError(f"{place}: {name} holds values that are not finite")
        digest.update(f"{name} {list(value.shape)}".encode())
        digest.update(value.contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _pooling(
    config: Mapping[str, Any], place: str
) -> tuple[nn.Module, dict[str, Json]]:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [m for old, m in LEGACY_MODES.items() if config.get(old)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    unknown = [m for m in modes if m not in MODES]
    if unknown:
        raise SourceError(
            f"{place} pools by {', '.join(map(str, unknown))}, which is not known; "
            "choose another f with --output-map (output_map=)"
        )
    settings: dict[str, Json] = {"pooling_mode": modes}
    if not config.get("include_prompt", True):
        settings["include_prompt"] = False
    return Pooling(modes), settings


def _dense(config: Mapping[str, Any], place: str) -> tuple[nn.Module, dict[str, Json]]:
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = path.rpartition(".")[2]
    kind: Any = getattr(nn, name, None)
    known = name == "Identity" or getattr(kind, "__module__", "") == ACTIVATIONS
    if not (path.startswith("torch.nn.") and known):
        raise SourceError(
            f"{place} has the activation {path}, which is none of torch.nn; no code of "
            "a repository is run"
        )
    built = Dense(config, kind())
    settings: dict[str, Json] = {"activation_function": name}
    if built.round:
        settings["use_residual"] = True
    return built, settings | _ends(built.source, built.target)


def _ends(source: str, target: str) -> dict[str, Json]:
    """Which values a module reads and sets, unless it is the usual one."""
    if source == target == SENTENCE:
        return {}
    return {"module_input_name": source, "module_output_name": target}


def _layer_norm(
    config: Mapping[str, Any], _place: str
) -> tuple[nn.Module, dict[str, Json]]:
    return LayerNorm(config["dimension"]), {}


def _normalize(
    config: Mapping[str, Any], _place: str
) -> tuple[nn.Module, dict[str, Json]]:
    source = config.get("module_input_name") or SENTENCE
    target = config.get("module_output_name") or source
    return Normalize(source, target), _ends(source, target)


def _layers(
    config: Mapping[str, Any], _place: str
) -> tuple[nn.Module, dict[str, Json]]:
    count, start = config.get("num_hidden_layers", 12), config.get("layer_start", 4)
    return WeightedLayerPooling(count, start), {"layer_start": start}


BUILDERS: dict[
    str, Callable[[Mapping[str, Any], str], tuple[nn.Module, dict[str, Json]]]
] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Pooling": _pooling,
    "WeightedLayerPooling": _layers,
}
