"""What else is in the directory of a model that task vectors were added to."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import apply
from tests.models import SavedModel
from tests.sources.applied import vector_of


@pytest.fixture
def source(tmp_path: Path, saved_model: SavedModel) -> Path:
    """A sentence encoder with a pooling and a dense module behind it."""
    path = tmp_path / "source"
    shutil.copytree(saved_model("bert"), path)
    listing = [
        {"path": p, "type": f"sentence_transformers.models.{kind}"}
        for p, kind in [
            ("", "Transformer"),
            ("1_Pooling", "Pooling"),
            ("2_Dense", "Dense"),
        ]
    ]
    (path / "modules.json").write_text(json.dumps(listing))
    (path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "word_embedding_dimension": 8}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (path / "2_Dense").mkdir()
    dense: dict[str, Any] = {"in_features": 8, "out_features": 4, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (path / "2_Dense" / "config.json").write_text(json.dumps(dense))
    save_file(
        {"linear.weight": torch.ones(4, 8)}, path / "2_Dense" / "model.safetensors"
    )
    return path


def names_in(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def test_what_belongs_to_the_model_is_kept_byte_for_byte(
    tmp_path: Path, source: Path
) -> None:
    (source / "chat_template.jinja").write_text("{{ x }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ y }}")
    (source / "README.md").write_text("# mine")
    (source / "generation_config.json").write_text("{}\n")
    (source / "source.spm").write_bytes(b"\x00\x01")
    (source / "LICENSE").write_text("free")
    before = names_in(source)
    done = apply(source, [vector_of(source)], tmp_path / "applied")
    assert names_in(tmp_path / "applied") == before | {"kfac_apply.json"}
    assert set(done.files) == before
    assert not done.left_out
    for name in before - {"model.safetensors"}:
        content = (tmp_path / "applied" / name).read_bytes()
        assert content == (source / name).read_bytes(), name


def test_pickles_code_links_and_other_weights_are_left_out_by_name(
    tmp_path: Path, source: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    files = [
        "pytorch_model.bin",
        "training_args.pt",
        "modeling_x.py",
        ".env",
        "mine.csv",
    ]
    files += ["consolidated.safetensors", "model.fp16.safetensors", "tf_model.h5"]
    files += ["pytorch_model.bin.index.json", "2_Dense/pytorch_model.bin"]
    for name in files:
        (source / name).write_bytes(b"x")
    for folder in ("onnx", ".git", ".cache"):
        (source / folder).mkdir()
        (source / folder / "config.json").write_text("{}")
    (source / "notes.txt").symlink_to(secret)
    (tmp_path / "elsewhere").mkdir()
    (source / "docs").symlink_to(tmp_path / "elsewhere")
    (source / "\x1b[2J\udcff.txt").write_text("odd")
    (source / "vocab.txt").write_text("word")
    (source / "alias.txt").symlink_to("vocab.txt")
    vector = vector_of(source)
    done = apply(source, [vector], tmp_path / "applied")
    left = {
        *files,
        "onnx/",
        ".git/",
        ".cache/",
        "notes.txt",
        "docs/",
        "\x1b[2J\udcff.txt",
    }
    assert set(done.left_out) == left
    assert not names_in(tmp_path / "applied") & left
    assert (tmp_path / "applied" / "alias.txt").read_text() == "word"
    assert not (tmp_path / "applied" / "alias.txt").is_symlink()
    assert "outside" in done.left_out["notes.txt"]
    again = apply(source, [vector], tmp_path / "applied", replace=True)
    assert again.files == done.files


def test_a_configuration_outside_is_refused(tmp_path: Path, source: Path) -> None:
    vector = vector_of(source)
    (source / "config.json").rename(tmp_path / "config.json")
    (source / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(SourceError, match="leads outside"):
        apply(source, [vector], tmp_path / "applied", dtype="bfloat16")
    assert not (tmp_path / "applied").exists()


def test_links_of_the_hub_s_cache_are_followed(tmp_path: Path, source: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, name in enumerate(sorted(names_in(source))):
        shutil.copyfile(source / name, blobs / str(i))
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).symlink_to(blobs / str(i))
    done = apply(snapshot, [vector_of(snapshot)], tmp_path / "applied")
    assert not done.left_out
    assert names_in(tmp_path / "applied") == names_in(source) | {"kfac_apply.json"}
    assert not any(p.is_symlink() for p in (tmp_path / "applied").rglob("*"))


def test_a_module_that_is_pickled_only_is_refused(tmp_path: Path, source: Path) -> None:
    vector = vector_of(source)
    (source / "2_Dense" / "model.safetensors").rename(
        source / "2_Dense" / "pytorch_model.bin"
    )
    with pytest.raises(SourceError, match="pickle only"):
        apply(source, [vector], tmp_path / "applied")
    assert not (tmp_path / "applied").exists()


def test_a_linked_folder_of_a_module_is_refused(tmp_path: Path, source: Path) -> None:
    vector = vector_of(source)
    (source / "1_Pooling").rename(tmp_path / "pooling")
    (source / "1_Pooling").symlink_to(tmp_path / "pooling")
    with pytest.raises(SourceError, match=r"1_Pooling, where a module .* is a link"):
        apply(source, [vector], tmp_path / "applied")
    assert not (tmp_path / "applied").exists()


def test_an_encoder_in_a_folder_of_its_own_stays_there(
    tmp_path: Path, source: Path
) -> None:
    vector = vector_of(source)
    old = tmp_path / "old"
    shutil.move(source, old / "0_Transformer")
    for name in ("modules.json", "1_Pooling", "2_Dense"):
        shutil.move(old / "0_Transformer" / name, old / name)
    listing = json.loads((old / "modules.json").read_text())
    listing[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(listing))
    (old / "0_Transformer" / "model.fp16.safetensors").write_bytes(b"x")
    shutil.copyfile(old / "0_Transformer" / "config.json", old / "config.json")
    done = apply(old, [vector], tmp_path / "applied")
    assert [*done.left_out] == ["0_Transformer/model.fp16.safetensors"]
    name = "0_Transformer/model.safetensors"
    assert not torch.equal(
        load_file(tmp_path / "applied" / name)["embeddings.LayerNorm.bias"],
        load_file(old / name)["embeddings.LayerNorm.bias"],
    )


def test_the_marker_says_what_the_model_is_made_of(
    tmp_path: Path, source: Path
) -> None:
    vector = vector_of(source)
    apply(source, [vector, -vector], tmp_path / "applied", alphas=[1.0, 0.5])
    marker = json.loads((tmp_path / "applied" / "kfac_apply.json").read_text())
    assert marker.pop("files") == sorted(names_in(source))
    assert marker == {
        "format": "kfac-applied-model",
        "version": 1,
        "base": {"id": "source", "revision": None},
        "vectors": [
            {"sha256": vector.sha256, "alpha": 1},
            {"sha256": (-vector).sha256, "alpha": 0.5},
        ],
    }
    assert vector.sha256 != (-vector).sha256


def test_damaged_weights_are_one_error(tmp_path: Path, source: Path) -> None:
    vector = vector_of(source)
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(content[:-8])
    with pytest.raises(SourceError, match="not a valid safetensors file"):
        apply(source, [vector], tmp_path / "applied")
    (source / "model.safetensors").unlink()
    index = {"weight_map": {"x": "../secret.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match="no file beside it"):
        apply(source, [vector], tmp_path / "applied")
