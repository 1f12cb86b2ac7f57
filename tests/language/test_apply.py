"""Task vectors of models with heads, written and read back: nothing is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.errors import MismatchError
from kfac_artifacts.network import Network
from kfac_artifacts.sources import apply, load_network
from kfac_artifacts.task_vector import TaskVector
from tests.commands import good
from tests.language.saved import save_model
from tests.sources.applied import ALPHA, check_applied, vector_of

AUTO = {
    "LlamaForCausalLM": ("AutoModelForCausalLM", "lm-fisher"),
    "GPT2LMHeadModel": ("AutoModelForCausalLM", "lm-fisher"),
    "BertForMaskedLM": ("AutoModelForMaskedLM", "lm-fisher"),
    "T5ForConditionalGeneration": ("AutoModelForSeq2SeqLM", "lm-fisher"),
    "BertForSequenceClassification": (
        "AutoModelForSequenceClassification",
        "logits-fisher",
    ),
}


def by_auto(path: Path, kind: str) -> Any:
    """A model as people load it, with a report of what is missing or left over."""
    import transformers

    load = getattr(transformers, kind).from_pretrained
    model, report = load(path, output_loading_info=True, local_files_only=True)
    assert not any(report[key] for key in report if key.endswith("_keys"))
    return model


def state(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("output_map", ["embedding", "of the head"])
@pytest.mark.parametrize("name", AUTO)
def test_a_model_comes_back_by_its_auto_class_changed_where_tau_says(
    tmp_path: Path, name: str, output_map: str
) -> None:
    kind, of_head = AUTO[name]
    source = save_model(tmp_path / "model", name)
    config: Any = json.loads((source / "config.json").read_text())
    asked = of_head if output_map == "of the head" else output_map
    vector = vector_of(source, output_map=asked)
    apply(source, [vector], tmp_path / "out", alphas=[ALPHA])
    model = by_auto(source, kind)
    check_applied(source, tmp_path / "out", model, vector)
    before, found = state(model), state(by_auto(tmp_path / "out", kind))
    changed = {n for n in before if not torch.equal(before[n], found[n])}
    assert len(changed) >= len(vector.tensors)
    trained_head = bool({"lm_head.weight", "classifier.weight"} & vector.tensors.keys())
    outside = {"lm_head.weight", "classifier.weight", "cls.predictions.bias"}
    tied = name in {"GPT2LMHeadModel", "T5ForConditionalGeneration"}
    if not trained_head and asked == "embedding" and not tied:
        assert not changed & outside  # the head is there, and as it was
        assert before.keys() & outside
    assert json.loads((tmp_path / "out/config.json").read_text()) == config
    for file in source.iterdir():  # tokenizer, template, settings of generation
        if file.suffix != ".safetensors":
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertForMaskedLM"])
def test_changes_with_and_without_the_head_are_added_up(
    tmp_path: Path, name: str
) -> None:
    kind, of_head = AUTO[name]
    source = save_model(tmp_path / "model", name)
    bare, whole = vector_of(source), vector_of(source, 2, output_map=of_head)
    done = apply(source, [bare, whole], tmp_path / "out", alphas=[ALPHA, ALPHA])
    assert done.renamed == len(bare.tensors)
    model = by_auto(source, kind)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for vector, prefix in ((bare, f"{model.base_model_prefix}."), (whole, "")):
            for parameter, change in vector.tensors.items():
                parameters[prefix + parameter].add_(ALPHA * change)
    found = state(by_auto(tmp_path / "out", kind))
    for parameter, value in state(model).items():
        torch.testing.assert_close(found[parameter], value)
    marker = json.loads((tmp_path / "out/kfac_apply.json").read_text())
    assert [v["sha256"] for v in marker["vectors"]] == [bare.sha256, whole.sha256]
    for number, vector in enumerate((bare, whole)):
        vector.save(tmp_path / str(number))
    taus = (tmp_path / "0", tmp_path / "1")
    said = good("apply", source, *taus, "-o", tmp_path / "again")
    assert f"{len(bare.tensors)} parameters, trained without the head" in said


def test_another_head_is_another_model(tmp_path: Path) -> None:
    source = save_model(tmp_path / "model", "LlamaForCausalLM")
    changed: Any = load_network(source, output_map="lm-fisher")
    with torch.no_grad():
        changed.module.lm_head.weight.add_(1)
    vector = vector_of(source, output_map="lm-fisher")
    other = Network(changed.module, changed.output_map, "other")
    moved = TaskVector(vector.tensors, other.base)
    with pytest.raises(MismatchError, match=r"other values in lm_head\.weight"):
        apply(source, [moved], tmp_path / "none")
