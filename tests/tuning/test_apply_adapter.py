"""Adapters of ``peft``, merged into checkpoints: what ``peft`` itself makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kfac_artifacts.errors import FormatError, MismatchError
from kfac_artifacts.sources import load_adapter
from tests.commands import bad, good
from tests.language.saved import save_model
from tests.language.test_apply import AUTO, by_auto, state
from tests.tuning.adapted import LINEAR, moved

peft = pytest.importorskip("peft")
NAME = "LlamaForCausalLM"


def saved(source: Path, out: Path, name: str, **settings: Any) -> Any:
    """An adapter as peft writes it, and the model that it merges it to."""
    usual: dict[str, Any] = {"r": 2, "lora_alpha": 3, "target_modules": LINEAR[name]}
    usual["fan_in_fan_out"] = name == "GPT2LMHeadModel"
    model = by_auto(source, AUTO[name][0])
    adapted = moved(peft.get_peft_model(model, peft.LoraConfig(**usual | settings)))
    adapted.save_pretrained(out)
    return adapted.merge_and_unload()


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BertForMaskedLM"]
)
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_an_adapter_is_merged_as_peft_merges_it(
    tmp_path: Path, name: str, settings: Any
) -> None:
    source, adapter, out = (tmp_path / part for part in ("model", "adapter", "out"))
    save_model(source, name)
    merged = state(saved(source, adapter, name, **settings))
    said = good("apply", source, adapter, "-o", out)
    assert "1 task vector added to" in said
    found = state(by_auto(out, AUTO[name][0]))
    assert found.keys() == merged.keys()
    for key, value in merged.items():
        torch.testing.assert_close(found[key], value, msg=key)
    assert json.loads((out / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    assert (out / "tokenizer.json").is_file()


def test_scales_by_layer_are_found_as_peft_finds_them(tmp_path: Path) -> None:
    source, adapter = save_model(tmp_path / "model", NAME), tmp_path / "adapter"
    alphas = {"layers.0.self_attn.q_proj": 5, "up_proj": 9}
    ranks = {"k_proj": 3}
    merged = state(
        saved(source, adapter, NAME, alpha_pattern=alphas, rank_pattern=ranks)
    )
    vector, start = load_adapter(adapter, source), state(by_auto(source, AUTO[NAME][0]))
    for name, change in vector.tensors.items():
        torch.testing.assert_close(start[name] + change, merged[name], msg=name)


def test_an_adapter_of_the_network_without_its_head_fits(tmp_path: Path) -> None:
    source, adapter = save_model(tmp_path / "model", NAME), tmp_path / "adapter"
    import transformers

    bare = transformers.AutoModel.from_pretrained(source)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    moved(peft.get_peft_model(bare, config)).save_pretrained(adapter)
    said = good("apply", source, adapter, "-o", tmp_path / "out")
    assert "1 task vector added to 1 of" in said


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "LOHA"}, "an adapter of kind 'LOHA'"),
    "dora": ({"use_dora": True}, r"an adapter with DoRA \(use_dora\)"),
    "biases": ({"bias": "all"}, r"with biases that move \(bias\)"),
    "pissa": ({"init_lora_weights": "pissa"}, "other base weights"),
    "copies": ({"modules_to_save": ["lm_head"]}, "with whole modules"),
    "no number": ({"lora_alpha": "three"}, "lora_alpha of the adapter is 'three'"),
    "infinite": ({"lora_alpha": 1e300}, "not finite, or very large"),
    "program": ({"alpha_pattern": {"(a+)+$": 1}}, r"'\(a\+\)\+\$', an expression"),
    "no mapping": ({"alpha_pattern": [1]}, "alpha_pattern of the adapter is no"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_configurations_of_something_else_are_refused(
    tmp_path: Path, case: str
) -> None:
    changed, message = BROKEN[case]
    source, adapter = save_model(tmp_path / "model", NAME), tmp_path / "adapter"
    saved(source, adapter, NAME)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(FormatError, match=message):
        load_adapter(adapter, source)
    bad("apply", source, adapter, "-o", tmp_path / "out", code=3)
    assert not (tmp_path / "out").exists()


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    source, adapter = save_model(tmp_path / "model", NAME), tmp_path / "adapter"
    saved(source, adapter, NAME)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    up = "base_model.model.model.layers.0.mlp.up_proj.lora_"

    def broken(changed: dict[str, Any], kind: type[Exception], message: str) -> None:
        kept = {k: v for k, v in (tensors | changed).items() if v is not None}
        save_file(kept, path)
        with pytest.raises(kind, match=message):
            load_adapter(adapter, source)

    broken({f"{up}A.weight": None}, FormatError, "has but one of its two matrices")
    broken({f"{up}A.weight": torch.ones(3, 8)}, FormatError, "there is no product")
    none = {f"{up}A.weight": torch.ones(0, 8), f"{up}B.weight": torch.ones(12, 0)}
    broken(none, FormatError, "there is no product")
    broken(dict.fromkeys(tensors), FormatError, "has no matrix")
    large = {k: torch.full_like(v, 1e30) for k, v in tensors.items()}
    broken(large, FormatError, "changes .* by numbers that are not finite")
    broken({f"{up}A.weight": torch.full((2, 8), torch.nan)}, FormatError, "not finite")
    broken({f"{up}A.weight": torch.ones(2, 9)}, MismatchError, "for another model")
    broken({"base_model.model.x": torch.ones(1)}, FormatError, "no matrix of a LoRA")
    other = {f"base_model.model.other.lora_{n}.weight": torch.ones(2, 2) for n in "AB"}
    broken(other, MismatchError, r"which has no other\.weight")
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(FormatError, match="is not a valid safetensors file"):
        load_adapter(adapter, source)
    path.rename(adapter / "adapter_model.bin")
    with pytest.raises(FormatError, match="in pickles"):
        load_adapter(adapter, source)


def test_an_adapter_of_a_tied_table_is_refused(tmp_path: Path) -> None:
    name = "GPT2LMHeadModel"
    source, adapter = save_model(tmp_path / "model", name), tmp_path / "adapter"
    saved(source, adapter, name, target_modules=["wte"], fan_in_fan_out=False)
    with pytest.raises(FormatError, match=r"is tied to lm_head\.weight"):
        load_adapter(adapter, source)
