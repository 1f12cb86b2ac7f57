"""The penalty of models with adapters of ``peft``, by what ``peft`` merges them to."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import CoverageError, MismatchError
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.tuning.models import ModelPenalty
from tests.language.heads import build
from tests.tuning.adapted import (
    LINEAR,
    OPTIONS,
    adapted,
    curvature_of,
    distance,
    moved,
    trained,
)

pytest.importorskip("peft")
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def shorter(of: Artifact, tau: dict[str, Tensor], before: str) -> dict[str, Tensor]:
    names = of.parameters.keys()
    return {n: tau[f"{before}{n}"] for n in names if f"{before}{n}" in tau}


def expected(of: Artifact, name: str, model: Any, before: str = "") -> Tensor:
    return KfacPenalty(of)(shorter(of, distance(name, model), before))


def check_gradient(penalty: ModelPenalty, model: Any) -> None:
    """The gradient of both ways, against differences of the value itself."""
    parameters = trained(model)
    penalty.backward(3.0)
    by_hand = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
    found = torch.autograd.grad(
        3.0 * penalty(), list(parameters.values()), allow_unused=True
    )
    for (name, parameter), grad in zip(parameters.items(), found, strict=True):
        if grad is None:
            assert name not in by_hand
            continue
        torch.testing.assert_close(by_hand[name], grad, **CLOSE)
        step = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        step = step.to(parameter.dtype)
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                parameter.add_(sign * 0.01 * step)
            values.append(penalty().detach())
        with torch.no_grad():
            parameter.add_(0.01 * step)
        slope = 3 * (values[0] - values[1]) / 0.02
        torch.testing.assert_close(
            slope.double(), (grad * step).sum().double(), rtol=0.02, atol=0.02
        )


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(
    "estimator", ["kfac", "ekfac", "inputs", "diagonal", "nearest"]
)
def test_an_adapter_is_held_back_as_the_merged_model(name: str, estimator: str) -> None:
    of, model = curvature_of(name, estimator), adapted(name)
    penalty = ModelPenalty(model, of)
    torch.testing.assert_close(penalty(), expected(of, name, model), **CLOSE)
    if estimator == "kfac":
        check_gradient(penalty, model)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 7}},
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["input_layernorm", "up_proj"],
        },
        {"init_lora_weights": "orthogonal"},
    ],
)
def test_settings_of_adapters_count_as_peft_computes_them(settings: Any) -> None:
    name = "LlamaForCausalLM"
    of, model = curvature_of(name), adapted(name, spread=False, **settings)
    penalty = ModelPenalty(model, of)
    moved(model)
    torch.testing.assert_close(penalty(), expected(of, name, model), **CLOSE)
    check_gradient(penalty, model)


@pytest.mark.parametrize("settings", [{"bias": "all"}, {"lora_bias": True}])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel"])
def test_biases_that_move_are_a_column_more(name: str, settings: Any) -> None:
    of, model = curvature_of(name), adapted(name, spread=False, **settings)
    free = ["cls.*"] if settings == {"bias": "all"} else []
    penalty = ModelPenalty(model, of, free=free)
    moved(model)
    torch.testing.assert_close(penalty(), expected(of, name, model), **CLOSE)
    check_gradient(penalty, model)


def test_several_active_adapters_add_up() -> None:
    from peft import LoraConfig

    name = "LlamaForCausalLM"
    of, model = curvature_of(name), adapted(name)
    model.add_adapter("other", LoraConfig(r=3, target_modules=["q_proj", "up_proj"]))
    model.base_model.set_adapter(["default", "other"])
    moved(model, 5)
    penalty = ModelPenalty(model, of)
    torch.testing.assert_close(penalty(), expected(of, name, model), **CLOSE)
    check_gradient(penalty, model)
    model.base_model.set_adapter(["default"])
    torch.testing.assert_close(
        ModelPenalty(model, of)(), expected(of, name, model), **CLOSE
    )


def test_adapters_are_switched_while_there_is_a_penalty() -> None:
    """Of other weights and ranks, as long as the penalty knows of both."""
    from peft import LoraConfig

    name = "LlamaForCausalLM"
    of, model = curvature_of(name), adapted(name, target_modules=["q_proj", "up_proj"])
    model.add_adapter("other", LoraConfig(r=3, target_modules=["q_proj", "down_proj"]))
    model.base_model.set_adapter(["default", "other"])
    moved(model, 5)
    penalty = ModelPenalty(model, of)
    for active in (["default", "other"], ["other"], ["default"], ["default", "other"]):
        model.base_model.set_adapter(active)
        model.zero_grad()
        torch.testing.assert_close(penalty(), expected(of, name, model), **CLOSE)
        check_gradient(penalty, model)


def test_an_adapter_that_the_penalty_does_not_know_is_refused() -> None:
    from peft import LoraConfig

    name = "LlamaForCausalLM"
    of, model = curvature_of(name), adapted(name, target_modules=["q_proj"])
    penalty = ModelPenalty(model, of)
    model.add_adapter("other", LoraConfig(r=3, target_modules=["down_proj"]))
    penalty()  # it is not active
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(MismatchError, match=r"down_proj\.weight would move without it"):
        penalty()


def test_a_copy_of_a_module_is_followed_to_the_one_that_is_active() -> None:
    from peft import LoraConfig

    name = "BertForMaskedLM"
    layers = {"target_modules": ["query"], "modules_to_save": ["transform"]}
    of, model = curvature_of(name), adapted(name, spread=False, **layers)
    model.add_adapter("other", LoraConfig(r=3, **layers))
    free = ["cls.*Norm*"]
    penalty = ModelPenalty(model, of, free=free)
    moved(model, 5)
    torch.testing.assert_close(penalty(), expected(of, name, model), **CLOSE)
    model.set_adapter("other")
    with pytest.raises(MismatchError, match="would move without it"):
        penalty()


def test_copies_are_followed_where_nothing_else_is_held_back() -> None:
    from peft import LoraConfig

    name = "BertForMaskedLM"
    layers = {"target_modules": ["query"], "modules_to_save": ["transform"]}
    of, model = curvature_of(name), adapted(name, spread=False, **layers)
    rest = {n: b for n, b in of.blocks.items() if "query" not in n}
    model.add_adapter("other", LoraConfig(r=3, **layers))
    penalty = ModelPenalty(model, replace(of, blocks=rest), free=["*query*", "*Norm*"])
    moved(model, 5)
    assert penalty() > 0
    model.set_adapter("other")
    with pytest.raises(MismatchError, match="would move without it"):
        penalty()


def test_a_frozen_copy_that_has_moved_counts() -> None:
    name = "BertForMaskedLM"
    layers = {"target_modules": ["query"], "modules_to_save": ["transform"]}
    of, model = curvature_of(name), adapted(name, spread=False, **layers)
    moved(model, 5)
    value = expected(of, name, model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(ModelPenalty(model, of)(), value, **CLOSE)


def test_tables_of_tokens_have_adapters() -> None:
    name = "BertForMaskedLM"
    of = curvature_of(name, tables=True)
    model = adapted(name, target_modules=["word_embeddings", "query"])
    penalty = ModelPenalty(model, of)
    torch.testing.assert_close(penalty(), expected(of, name, model), **CLOSE)
    check_gradient(penalty, model)


def test_curvature_without_the_head_holds_the_model_with_it_back_and_the_reverse() -> (
    None
):
    name = "LlamaForCausalLM"
    bare, model = curvature_of(name, headed=False), adapted(name)
    value = ModelPenalty(model, bare)()
    torch.testing.assert_close(value, expected(bare, name, model, "model."), **CLOSE)
    inner = model.base_model.model.model
    of = curvature_of(name)
    torch.testing.assert_close(
        ModelPenalty(inner, of)(), expected(of, name, model), **CLOSE
    )


def test_a_model_that_is_trained_whole_is_held_back_from_where_it_began() -> None:
    name = "LlamaForCausalLM"
    of, model = curvature_of(name), build(name)
    for parameter in (model.lm_head.weight, model.model.embed_tokens.weight):
        parameter.requires_grad_(False)
    penalty = ModelPenalty(model, of)
    assert penalty().item() == 0
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved(model)
    tau = {n: p.detach() - start[n] for n, p in model.named_parameters()}
    torch.testing.assert_close(penalty(), KfacPenalty(of)(tau), **CLOSE)
    check_gradient(penalty, model)


def test_what_moves_without_a_block_is_an_error_that_names_it(caplog: Any) -> None:
    name = "LlamaForCausalLM"
    of = curvature_of(name)
    model = adapted(name, target_modules=["q_proj", "lm_head"])
    with pytest.raises(CoverageError, match=r"1 of the 2 .* and not lm_head\.weight"):
        ModelPenalty(model, of)
    penalty = ModelPenalty(model, of, free=["lm_head*"])
    assert "nothing holds back, 1 of the 2 parameters that move: lm_head" in caplog.text
    tau = distance(name, model)
    torch.testing.assert_close(
        penalty(), KfacPenalty(of)(shorter(of, tau, "")), **CLOSE
    )
    only = adapted(name, target_modules=["lm_head"])
    with pytest.raises(MismatchError, match="nothing that moves is covered"):
        ModelPenalty(only, of, free=["*"])


def test_curvature_of_other_weights_is_refused() -> None:
    name = "LlamaForCausalLM"
    model = adapted(name)
    with torch.no_grad():
        model.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.add_(1)
    with pytest.raises(
        MismatchError, match=r"other values in model\.layers\.0\.mlp\.up"
    ):
        ModelPenalty(model, curvature_of(name))
    assert ModelPenalty(model, curvature_of(name), other_weights=True)().item() > 0


def test_of_a_model_that_was_rounded_it_is_said_what_to_do() -> None:
    name = "LlamaForCausalLM"
    model = adapted(name, dtype=torch.bfloat16)
    with pytest.raises(MismatchError, match=r"\(bfloat16\) .*\(other_weights=True\)"):
        ModelPenalty(model, curvature_of(name))


def test_curvature_of_another_architecture_is_refused() -> None:
    with pytest.raises(MismatchError, match="no parameter of the curvature"):
        ModelPenalty(adapted("LlamaForCausalLM"), curvature_of("BertForMaskedLM"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "default of .*q_proj is DoRA"),
        ({"init_lora_weights": "pissa"}, "begun by init_lora_weights='pissa'"),
        ({"init_lora_weights": "olora"}, "begun by init_lora_weights='olora'"),
        (
            {
                "bias": "all",
                "target_modules": ["q_proj"],
                "modules_to_save": ["lm_head"],
            },
            "lm_head",
        ),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_name(
    settings: Any, message: str
) -> None:
    model = adapted("LlamaForCausalLM", dtype=torch.float32, **settings)
    with pytest.raises(CoverageError, match=message):
        ModelPenalty(model, curvature_of("LlamaForCausalLM"))


@pytest.mark.parametrize(
    "kind", ["LoHaConfig", "IA3Config", "AdaLoraConfig", "VeraConfig"]
)
def test_other_tuners_are_refused_by_name(kind: str) -> None:
    import peft

    settings: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
    if kind == "IA3Config":
        settings["feedforward_modules"] = []
    if kind == "AdaLoraConfig":
        settings["total_step"] = 10
    model = peft.get_peft_model(
        build("LlamaForCausalLM"), getattr(peft, kind)(**settings)
    )
    with pytest.raises(CoverageError, match=r"q_proj has an adapter of kind peft\."):
        ModelPenalty(model, curvature_of("LlamaForCausalLM"))


def test_an_adapter_of_a_tied_table_is_refused() -> None:
    name = "GPT2LMHeadModel"
    model = adapted(name, target_modules=["wte", "c_attn"])
    with pytest.raises(
        CoverageError, match=r"wte has an adapter.*model\.lm_head as well"
    ):
        ModelPenalty(model, curvature_of(name, tables=True))


def test_merged_adapters_are_refused_while_they_are_merged() -> None:
    name = "LlamaForCausalLM"
    model = adapted(name)
    penalty = ModelPenalty(model, curvature_of(name))
    model.merge_adapter()
    with pytest.raises(MismatchError, match=r"default are merged .* unmerge_adapter"):
        penalty()
    model.unmerge_adapter()
    assert penalty().item() > 0


def test_one_weight_in_two_places_of_a_model_is_refused() -> None:
    both = torch.nn.ModuleDict(
        {"a": build("LlamaForCausalLM"), "b": adapted("LlamaForCausalLM")}
    )
    with pytest.raises(MismatchError, match="in the model more than once"):
        ModelPenalty(both, curvature_of("LlamaForCausalLM"))


def test_options_of_tiny_models_are_used() -> None:
    assert OPTIONS.keys() <= LINEAR.keys()
