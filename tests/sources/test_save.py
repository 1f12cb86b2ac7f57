"""A network written back is a whole model directory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.sources import load_network
from kfac_artifacts.sources.save import save_model


@pytest.fixture
def source(tmp_path: Path, saved_model: Callable[[str], Path]) -> Path:
    """A sentence encoder with a pooling and a dense module behind it."""
    path = tmp_path / "source"
    shutil.copytree(saved_model("bert"), path)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    listing = [
        {"path": p, "type": f"s.{kind}"} for p, kind in [*modules, ("../x", "y")]
    ]
    (path / "modules.json").write_text(json.dumps(listing))
    for folder in ("1_Pooling", "2_Dense", "onnx"):
        (path / folder).mkdir()
        (path / folder / "model.safetensors").write_bytes(b"weights")
    pooling = {"pooling_mode_cls_token": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (path / "pytorch_model.bin").write_bytes(b"old weights")
    (path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "x").mkdir()
    return path


def test_what_belongs_to_the_model_is_kept_and_no_other_weights(
    tmp_path: Path, source: Path
) -> None:
    network = load_network(str(source), device="cpu")
    with torch.no_grad():
        network.parameters()["embeddings.LayerNorm.bias"].add_(1.0)
    save_model(network, source, tmp_path / "saved")
    found = {
        str(p.relative_to(tmp_path / "saved"))
        for p in (tmp_path / "saved").rglob("*")
        if p.is_file()
    }
    assert found >= {"tokenizer.json", "modules.json", "1_Pooling/config.json"}
    assert "2_Dense/model.safetensors" in found
    assert not found & {"pytorch_model.bin", "onnx/model.safetensors"}
    assert "model.safetensors.index.json" not in found
    again = load_network(str(tmp_path / "saved"), device="cpu")
    assert again.output_map.info.name == "cls"
    for name, value in again.parameters().items():
        assert torch.equal(value, network.parameters()[name])


def test_a_taken_place_is_refused(tmp_path: Path, source: Path) -> None:
    network = load_network(str(source), device="cpu")
    with pytest.raises(PlaceError, match="exists already"):
        save_model(network, source, source)
