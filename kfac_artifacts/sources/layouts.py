"""What a directory is that is no model of ``transformers``, and what to do with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kfac_artifacts.sources.sentence_transformers import read_declaration

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
MERGED = (
    "load it with peft (AutoPeftModel.from_pretrained), merge it (merge_and_unload), "
    "save it with save_pretrained, and give that directory"
)
RESAVED = (
    "other formats can run code when they are read. For a Hub model, see whether a "
    "pull request has them: NAME@refs/pr/N; where the file is trusted, load it with "
    "transformers and save it with save_pretrained"
)
SIGNS = {  # a file that shows what a directory is, and what to say of it
    "kfac.json": "it is an artifact of curvature, not a model: give the model that it "
    "was computed from",
    "task_vector.json": "it is a task vector, not a model: give the model that it was "
    "trained from, or add it to that one with `kfac apply`",
    "model_index.json": "it is a pipeline of diffusers: give the folder of one of its "
    "models, such as its text_encoder",
    "open_clip_config.json": "it is a model of open_clip: give the same model in the "
    "layout of transformers (config.json and model.safetensors)",
    "config_sentence_transformers.json": "it has settings of sentence-transformers, "
    "but no modules.json that says where its encoder is",
    "params.json": "it has weights in their author's own layout: give the version of "
    "the model that was converted to transformers",
}
FORMATS = {  # weights that are not read, by the end of their files' names
    ".gguf": "weights for llama.cpp",
    ".onnx": "a model for ONNX",
    "openvino_model.xml": "a model for OpenVINO",
    ".h5": "weights for TensorFlow",
    ".msgpack": "weights for Flax",
    ".tflite": "a model for TensorFlow Lite",
    ".ckpt": "a pickle",
    ".bin": "a pickle",
    ".pt": "a pickle",
    ".pth": "a pickle",
    ".safetensors": "weights of another name",
}
MOST_NAMED = 3


def adapter_base(directory: Path) -> str | None:
    """What a directory with an adapter of ``peft`` says that it adapts.

    Args:
        directory: The directory.

    Returns:
        What to say of it; None if there is no adapter.
    """
    path = directory / ADAPTER
    if not path.is_file():
        return None
    try:
        content: Any = json.loads(path.read_text("utf-8"))
        base, kind = content["base_model_name_or_path"], content.get("peft_type")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        base, kind = "a model that it does not name", None
    return (
        f"it is an adapter of peft ({kind or 'of unknown type'}) for {base}, not a "
        f"model by itself: {MERGED}"
    )


def without_config(directory: Path) -> str:
    """Say what a directory without ``config.json`` is, as far as its files tell.

    Args:
        directory: The directory, in which there is none.

    Returns:
        What was found, and what to do.
    """
    signs = (text for name, text in SIGNS.items() if (directory / name).is_file())
    for said in (adapter_base(directory), _first_module(directory), *signs):
        if said is not None:
            return said
    folders = sorted(p.parent.name for p in directory.glob(f"*/{CONFIG}") if _whole(p))
    if folders:
        named = ", ".join(folders[:MOST_NAMED])
        return f"give its folder that holds a model ({named}), and choose --output-map"
    found = list(_formats(directory))
    if found:
        return f"it has {', '.join(found)}, which is not read: {RESAVED}"
    return "it is no directory of a transformers model"


def without_weights(directory: Path) -> str:
    """Say what weights a directory has, if they are not those that are read.

    Args:
        directory: The directory.

    Returns:
        What was found, and what to do.
    """
    found = ", ".join(_formats(directory)) or "no weights at all"
    return f"it has {found}; {RESAVED}"


def _whole(config: Path) -> bool:
    """Whether a configuration is that of a model."""
    try:
        return "model_type" in json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _first_module(directory: Path) -> str | None:
    declaration = read_declaration(directory)
    if declaration is None:
        return None
    first = declaration.steps[0]
    place = first.folder or "the directory itself"
    if first.kind in {"Transformer", "CLIPModel"}:
        advice = f"its encoder should be in {place}, and has no {CONFIG} there"
        if first.kind == "Transformer":
            return advice
        return (
            f"it is a CLIPModel of sentence-transformers: give the folder {place} "
            "with --output-map clip-image or clip-text"
        )
    return (
        f"its first module is a {first.kind} of sentence-transformers, which is no "
        "model of transformers and is not handled"
    )


def _formats(directory: Path) -> Iterator[str]:
    """Each kind of weights that are not read, with the name of one file."""
    names = sorted(str(f.relative_to(directory)) for f in _files(directory))
    seen: set[str] = set()
    for name in names:
        kinds = (kind for end, kind in FORMATS.items() if name.endswith(end))
        kind = next(kinds, None)
        if kind is not None and kind not in seen and Path(name).name not in WEIGHTS:
            seen.add(kind)
            yield f"{kind} ({name})"


def _files(directory: Path) -> Iterator[Path]:
    for pattern in ("*", "*/*"):
        yield from (f for f in directory.glob(pattern) if f.is_file())
