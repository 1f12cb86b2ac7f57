"""Task vectors on the checkpoints of every class of model, and back by that class."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import MismatchError, SourceError
from kfac_artifacts.network import Network, OutputMap
from kfac_artifacts.sources import apply, load_network
from kfac_artifacts.task_vector import TaskVector
from tests.sources import families

ALPHA = 0.5
VARIANTS = [
    *((name, {}, {}) for name in families.CLASSES),
    ("LlamaForCausalLM", {"tie_word_embeddings": True}, {"max_shard_size": "2KB"}),
    ("LlamaForCausalLM", {}, {"max_shard_size": "3KB"}),
    ("T5ForConditionalGeneration", {"tie_word_embeddings": False}, {}),
    ("MixtralForCausalLM", {"num_local_experts": 3}, {"max_shard_size": "4KB"}),
]


def vector_of(path: Path, seed: int = 1, only: str = "") -> TaskVector:
    """A random change of every parameter of the network that f has."""
    network = load_network(str(path), device="cpu")
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: 0.1 * torch.randn(p.shape, generator=generator)
        for name, p in network.parameters().items()
        if only in name
    }
    return TaskVector(tensors, network.base.restrict(tensors.keys()))


def check_applied(
    source: Path, path: Path, model: torch.nn.Module, vector: TaskVector
) -> None:
    """Load by the model's own class, and compare every entry with the sum."""
    expected, _ = families.reload(source, model)
    find = families.find_parameter(expected)
    with torch.no_grad():
        for name, change in vector.tensors.items():
            parameter = find(name)
            parameter.copy_(parameter.float() + ALPHA * change)
    found, report = families.reload(path, model)
    assert not any(report[k] for k in report if k.endswith("_keys"))
    assert found.config.architectures == [type(model).__name__]
    state = found.state_dict()
    for name, value in expected.state_dict().items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name


def stored(path: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in path.glob("*.safetensors") for n, t in load_file(f).items()}


@pytest.mark.parametrize(("name", "options", "saving"), VARIANTS)
def test_the_class_of_the_model_loads_the_sum_and_everything_else(
    tmp_path: Path, name: str, options: Any, saving: Any
) -> None:
    model = families.build(name, **options)
    source = families.save(tmp_path / "model", model, **saving)
    vector = vector_of(source)
    done = apply(source, [vector], tmp_path / "applied", alphas=[ALPHA])
    check_applied(source, tmp_path / "applied", model, vector)
    before, after = stored(source), stored(tmp_path / "applied")
    assert before.keys() == after.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == set(done.changed)
    for file in source.iterdir():  # the headers, so that order and metadata stay, too
        content, new = (
            file.read_bytes(),
            (tmp_path / "applied" / file.name).read_bytes(),
        )
        kept = 8 + int.from_bytes(content[:8], "little")
        end = kept if file.suffix == ".safetensors" else len(content)
        assert content[:end] == new[:end]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_tensor_keeps_its_number_type_and_is_rounded_once(
    tmp_path: Path, dtype: Any
) -> None:
    model = families.build("BertForMaskedLM").to(dtype)
    model.bert.embeddings.LayerNorm.float()
    source = families.save(tmp_path / "model", model)
    vector = vector_of(source)
    done = apply(source, [vector, vector], tmp_path / "applied", alphas=[0.2, 0.3])
    assert set(done.dtypes) == {"float32", str(dtype).removeprefix("torch.")}
    before, after = stored(source), stored(tmp_path / "applied")
    assert {n: t.dtype for n, t in before.items()} == {
        n: t.dtype for n, t in after.items()
    }
    change = vector.tensors["encoder.layer.0.attention.self.query.weight"]
    name = "bert.encoder.layer.0.attention.self.query.weight"
    exact = before[name].double() + (0.2 * change + 0.3 * change).double()
    assert torch.equal(
        after[name], exact.float().to(dtype) if dtype != torch.float64 else exact
    )
    assert (done.lost > 0.001) == (dtype.itemsize == 2)


def test_numbers_lost_in_rounding_are_told(tmp_path: Path) -> None:
    model = families.build("ViTForImageClassification").bfloat16()
    source = families.save(tmp_path / "model", model)
    small = 1e-4 * vector_of(source)
    assert apply(source, [small], tmp_path / "applied").lost > 0.9
    wide = apply(source, [small], tmp_path / "wide", dtype="float32")
    assert wide.lost < 0.01


def test_another_number_type_is_written_only_when_asked_for(tmp_path: Path) -> None:
    model = families.build("LlamaForCausalLM")
    source = families.save(tmp_path / "model", model, max_shard_size="3KB")
    vector = vector_of(source)
    out = tmp_path / "applied"
    apply(source, [vector], out, alphas=[ALPHA], dtype="bfloat16")
    config, old = (json.loads((p / "config.json").read_text()) for p in (out, source))
    assert config.pop("dtype") == "bfloat16"
    assert old.pop("dtype") == "float32"
    assert config == old
    index = json.loads((out / "model.safetensors.index.json").read_text())
    tensors = stored(out)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    _, report = families.reload(out, model)
    assert not report["missing_keys"]
    head = stored(source)["lm_head.weight"]
    assert torch.equal(tensors["lm_head.weight"], head.bfloat16())
    name = "layers.0.mlp.up_proj.weight"
    exact = stored(source)[f"model.{name}"] + ALPHA * vector.tensors[name]
    assert torch.equal(tensors[f"model.{name}"], exact.bfloat16())


def test_numbers_too_large_for_the_type_are_refused(tmp_path: Path) -> None:
    model = families.build("BertForMaskedLM")
    source = families.save(tmp_path / "model", model)
    large = vector_of(source, only="layer.1.output.dense.bias")
    with pytest.raises(MismatchError, match=r"output\.dense\.bias.* float16"):
        apply(source, [large], tmp_path / "a", alphas=[1e8], dtype="float16")
    with pytest.raises(MismatchError, match=r"output\.dense\.bias.*not finite"):
        apply(source, [large, large], tmp_path / "a", alphas=[3e38, 3e39])
    assert not (tmp_path / "a").exists()


def without_prefix(name: str) -> str:
    return name.removeprefix("bert.")


def legacy(name: str) -> str:
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("rename", [without_prefix, legacy])
def test_other_names_in_the_file_are_found_and_kept(
    tmp_path: Path, rename: Any
) -> None:
    model = families.build("BertForMaskedLM")
    source = families.save(tmp_path / "model", model)
    old = stored(source)
    tensors = {rename(n): t.clone() for n, t in old.items()}
    assert tensors.keys() != old.keys()
    save_file(tensors, source / "model.safetensors", {"format": "pt", "by": "hand"})
    vector = vector_of(source)
    apply(source, [vector], tmp_path / "applied", alphas=[ALPHA])
    check_applied(source, tmp_path / "applied", model, vector)
    with safe_open(tmp_path / "applied" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(tensors)
        assert file.metadata() == {"format": "pt", "by": "hand"}


def add_tensors(path: Path, **tensors: torch.Tensor) -> None:
    file = path / "model.safetensors"
    save_file(
        load_file(file) | {n: t.clone() for n, t in tensors.items()},
        file,
        {"format": "pt"},
    )


@pytest.mark.parametrize(
    ("name", "main", "copies"),
    [
        (
            "T5ForConditionalGeneration",
            "shared.weight",
            [
                f"{p}.weight"
                for p in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
            ],
        ),
        (
            "BertForMaskedLM",
            "bert.embeddings.word_embeddings.weight",
            ["cls.predictions.decoder.weight"],
        ),
        ("GPT2LMHeadModel", "transformer.wte.weight", ["lm_head.weight"]),
    ],
)
def test_every_stored_copy_of_a_tied_weight_moves(
    tmp_path: Path, name: str, main: str, copies: Any
) -> None:
    model = families.build(name)
    source = families.save(tmp_path / "model", model)
    add_tensors(source, **{c: stored(source)[main] for c in copies})
    vector = vector_of(source)
    apply(source, [vector], tmp_path / "applied", alphas=[ALPHA])
    check_applied(source, tmp_path / "applied", model, vector)
    after = stored(tmp_path / "applied")
    assert not torch.equal(after[main], stored(source)[main])
    assert all(torch.equal(after[c], after[main]) for c in copies)


def test_equal_weights_that_are_not_tied_do_not_move_together(tmp_path: Path) -> None:
    model = families.build("LlamaForCausalLM")
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        for layer in model.model.layers:
            layer.input_layernorm.weight.fill_(1.0)
    source = families.save(tmp_path / "model", model)
    vector = vector_of(source)
    apply(source, [vector], tmp_path / "applied", alphas=[ALPHA])
    check_applied(source, tmp_path / "applied", model, vector)


def test_equal_statistics_are_not_taken_for_parameters(tmp_path: Path) -> None:
    model = families.build("ResNetForImageClassification")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()  # bias and running mean 0, weight and variance 1
    source = families.save(tmp_path / "model", model)
    vector = vector_of(source)
    apply(source, [vector], tmp_path / "applied", alphas=[ALPHA])
    check_applied(source, tmp_path / "applied", model, vector)


def test_another_model_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = families.build("BertForMaskedLM")
    source = families.save(tmp_path / "model", model)
    vector = vector_of(source)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias.add_(1)
    other = families.save(tmp_path / "other", model)
    with pytest.raises(
        MismatchError, match=r"other values in encoder\.layer\.0\.output"
    ):
        apply(other, [vector], tmp_path / "applied")
    small = families.build("BertForMaskedLM", num_hidden_layers=1)
    third = families.save(tmp_path / "third", small)
    with pytest.raises(MismatchError, match=r"has no parameter encoder\.layer\.1"):
        apply(third, [vector], tmp_path / "applied")
    with pytest.raises(MismatchError, match="1 task vectors with 2 factors"):
        apply(source, [vector], tmp_path / "applied", alphas=[1.0, 2.0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "other", "third"]


def test_numbers_that_loading_replaces_are_not_taken_for_another_model(
    tmp_path: Path,
) -> None:
    source = families.save(tmp_path / "model", families.build("ChineseCLIPModel"))
    name = "text_model.embeddings.word_embeddings.weight"
    assert stored(source)[name][0].all()
    vector = vector_of(source)
    with pytest.raises(MismatchError, match=rf"8 numbers of {name}: transformers sets"):
        apply(source, [vector], tmp_path / "applied")
    assert not (tmp_path / "applied").exists()
    vector.tensors[name][0] = 0  # the padding token's, as training leaves it
    apply(source, [vector], tmp_path / "applied")
    before, after = load_network(source), load_network(tmp_path / "applied")
    for name, value in after.parameters().items():
        expected = before.parameters()[name] + vector.tensors[name]
        torch.testing.assert_close(value, expected)
    with torch.no_grad():
        other = families.build("ChineseCLIPModel")
        other.text_model.embeddings.word_embeddings.weight[1] += 1
    third = families.save(tmp_path / "third", other)
    with pytest.raises(MismatchError, match="another model: third has other values"):
        apply(third, [vector], tmp_path / "none")


def test_vectors_of_different_parameters_are_added(tmp_path: Path) -> None:
    model = families.build("Qwen3MoeForCausalLM")
    source = families.save(tmp_path / "model", model)
    experts, rest = vector_of(source, only="gate_up"), vector_of(source, 2, "norm")
    apply(source, [experts, rest], tmp_path / "applied", alphas=[ALPHA, ALPHA])
    check_applied(source, tmp_path / "applied", model, experts + rest)


@pytest.mark.parametrize(
    "name", ["BertForSequenceClassification", "MixtralForCausalLM"]
)
def test_heads_that_were_trained_move_under_their_own_names(
    tmp_path: Path, name: str
) -> None:
    model = families.build(name)
    source = families.save(tmp_path / "model", model)
    tensors = {n: torch.full(p.shape, 0.25) for n, p in model.named_parameters()}
    network = Network(
        model, OutputMap(NamedConfig("x"), lambda m, b: m(**b).logits), "mine"
    )
    vector = TaskVector(tensors, network.base)
    done = apply(source, [vector], tmp_path / "applied", alphas=[ALPHA])
    check_applied(source, tmp_path / "applied", model, vector)
    assert set(done.changed) == stored(source).keys()


@pytest.mark.parametrize("name", ["NoSuchModel", "AutoModel", "GPT2LMHeadModel"])
def test_a_class_that_cannot_be_loaded_says_nothing_about_ties(
    tmp_path: Path, name: str
) -> None:
    model = families.build("BertForMaskedLM")
    source = families.save(tmp_path / "model", model)
    file = source / "config.json"
    file.write_text(file.read_text().replace("BertForMaskedLM", name))
    vector = vector_of(source)
    apply(source, [vector], tmp_path / "applied", alphas=[ALPHA])
    for path in (source, tmp_path / "applied"):
        text = (path / "config.json").read_text()
        (path / "config.json").write_text(text.replace(name, "BertForMaskedLM"))
    check_applied(source, tmp_path / "applied", model, vector)


@pytest.fixture
def source(tmp_path: Path, saved_model: Callable[[str], Path]) -> Path:
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
