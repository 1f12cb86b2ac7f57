"""Directories that are no model of transformers: what is said of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import load_network, load_skeleton
from tests.models import SavedModel

BERT = {"model_type": "bert"}
ADAPTER = {"base_model_name_or_path": "org/base", "peft_type": "LORA"}


def _write(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


WITHOUT_CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "a LoRA adapter": (
        {"adapter_config.json": ADAPTER, "adapter_model.safetensors": ""},
        r"an adapter of peft \(LORA\) for org/base, .*merge_and_unload",
    ),
    "an adapter that is damaged": (
        {"adapter_config.json": "["},
        "an adapter of peft .* for a model that it does not name",
    ),
    "an artifact": ({"kfac.json": {}}, "an artifact of curvature, not a model"),
    "a task vector": (
        {"task_vector.json": {}},
        "a task vector, not a model.*`kfac",
    ),
    "diffusers": (
        {"model_index.json": {}, "text_encoder/config.json": {}},
        "a pipeline of diffusers.*text_encoder",
    ),
    "open_clip": ({"open_clip_config.json": {}}, "a model of open_clip"),
    "llama.cpp": ({"q4.gguf": ""}, r"weights for llama.cpp \(q4.gguf\), which is not"),
    "ONNX": ({"onnx/model.onnx": ""}, r"a model for ONNX \(onnx/model.onnx\)"),
    "OpenVINO": ({"openvino_model.xml": ""}, "a model for OpenVINO"),
    "TensorFlow": ({"tf_model.h5": ""}, "weights for TensorFlow"),
    "Flax": ({"flax_model.msgpack": ""}, "weights for Flax"),
    "pickles": ({"pytorch_model.bin": ""}, "a pickle .*can run code"),
    "Meta's layout": ({"params.json": {}, "consolidated.00.pth": ""}, "own layout"),
    "checkpoints of a training": (
        {"checkpoint-5/config.json": BERT, "checkpoint-9/config.json": BERT},
        r"its folder that holds a model \(checkpoint-5, checkpoint-9\)",
    ),
    "an encoder in a folder, unlisted": (
        {"0_Transformer/config.json": BERT, "1_Pooling/config.json": {}},
        r"its folder that holds a model \(0_Transformer\), and choose --output-map",
    ),
    "settings without modules": (
        {"config_sentence_transformers.json": {}},
        "no modules.json that says where its encoder is",
    ),
    "modules without an encoder": (
        {
            "modules.json": [
                {"path": "0_T", "type": "sentence_transformers.models.Transformer"}
            ]
        },
        "its encoder should be in 0_T, and has no config.json there",
    ),
    "CLIP of sentence-transformers": (
        {
            "modules.json": [
                {"path": "0_C", "type": "sentence_transformers.models.CLIPModel"}
            ]
        },
        "a CLIPModel of sentence-transformers: give the folder 0_C with --output-map",
    ),
    "nothing": ({"notes.txt": "a"}, "it is no directory of a transformers model"),
}


@pytest.mark.parametrize("load", [load_network, load_skeleton])
@pytest.mark.parametrize("case", WITHOUT_CONFIG)
def test_what_a_directory_is_and_what_to_do_is_said(
    tmp_path: Path, case: str, load: Callable[[str], object]
) -> None:
    files, message = WITHOUT_CONFIG[case]
    made = _write(tmp_path / "m", files)
    with pytest.raises(SourceError, match=rf"^m has no config\.json: .*{message}") as e:
        load(str(made))
    assert "\n" not in str(e.value)


def test_an_adapter_beside_a_whole_model_is_no_model(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    shutil.copytree(saved_model("bert"), tmp_path / "m")
    _write(tmp_path / "m", {"adapter_config.json": ADAPTER})
    with pytest.raises(SourceError, match=r"^m: it is an adapter of peft"):
        load_network(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "it has a pickle"),
        ("pytorch_model-00001-of-00002.bin", "it has a pickle"),
        ("tf_model.h5", "it has weights for TensorFlow"),
        ("model.fp16.safetensors", "it has weights of another name"),
        ("model.onnx", "it has a model for ONNX"),
        ("notes.txt", "it has no weights at all"),
    ],
)
def test_weights_that_are_not_read_are_named(
    saved_model: SavedModel, tmp_path: Path, name: str, message: str
) -> None:
    shutil.copytree(saved_model("bert"), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / name)
    with pytest.raises(SourceError, match=f"m has no safetensors weights .*{message}"):
        load_network(str(tmp_path / "m"))


def test_a_first_module_whose_settings_are_no_model_is_named(tmp_path: Path) -> None:
    kind = "sentence_transformers.models.BoW"
    files = {
        "modules.json": [{"path": "", "type": kind}],
        "config.json": {"vocab": ["a"]},
    }
    with pytest.raises(SourceError, match="its first module is a BoW"):
        load_network(str(_write(tmp_path / "bow", files)))
    plain = _write(tmp_path / "plain", {"config.json": {"vocab": ["a"]}})
    with pytest.raises(SourceError, match=r"its config\.json is of no model"):
        load_network(str(plain))


def test_a_model_of_timm_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "m", {"config.json": {"architecture": "vit_base_patch16_224"}})
    with pytest.raises(SourceError, match=r"a model of timm \(vit_base_patch16_224\)"):
        load_network(str(tmp_path / "m"))


def test_a_file_is_no_model(tmp_path: Path) -> None:
    _write(tmp_path, {"model.gguf": ""})
    with pytest.raises(SourceError, match="it is a file; give the directory"):
        load_network(str(tmp_path / "model.gguf"))
