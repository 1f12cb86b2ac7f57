"""Task vectors on the checkpoints of every class of model, and back by that class."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.errors import MismatchError
from kfac_artifacts.sources import apply
from tests.sources import families
from tests.sources.applied import ALPHA, check_applied, stored, vector_of

VARIANTS = [
    *((name, {}, {}) for name in families.CLASSES),
    ("LlamaForCausalLM", {"tie_word_embeddings": True}, {"max_shard_size": "2KB"}),
    ("LlamaForCausalLM", {}, {"max_shard_size": "3KB"}),
    ("T5ForConditionalGeneration", {"tie_word_embeddings": False}, {}),
    ("MixtralForCausalLM", {"num_local_experts": 3}, {"max_shard_size": "4KB"}),
]


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
