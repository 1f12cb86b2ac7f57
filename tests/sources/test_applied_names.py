"""Which stored tensors a task vector moves: of other names, tied, of other models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.network import Network, OutputMap
from kfac_artifacts.sources import apply, load_network
from kfac_artifacts.task_vector import TaskVector
from tests.sources import families
from tests.sources.applied import ALPHA, check_applied, stored, vector_of


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
