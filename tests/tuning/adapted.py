"""Tiny models with adapters of ``peft``, their curvature, and what they move by."""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.estimate import choose_estimator
from kfac_artifacts.network import Network, TensorExamples
from tests.language.heads import batch_of, build, network_of

LINEAR = {
    "LlamaForCausalLM": "all-linear",
    "GPT2LMHeadModel": ["c_attn", "c_proj", "c_fc"],
    "BertForMaskedLM": ["query", "key", "value", "intermediate.dense", "output.dense"],
}
FEW = {"count": 3, "allow_few": True}


@cache
def curvature_of(
    name: str, estimator: str = "kfac", *, headed: bool = True, tables: bool = False
) -> Artifact:
    """Curvature of a tiny model, with its head or of what it embeds."""
    network = network_of(name, "lm-fisher" if headed else None, **OPTIONS.get(name, {}))
    if not headed:
        module = network.module.base_model
        network = Network(module, kfac.sources.output_map(module), "tiny")
    examples = TensorExamples(batch_of(name), "three texts")
    options = {"shrinkage": False} if estimator == "nearest" else {}
    chosen = choose_estimator(estimator, **options)
    return kfac.compute(network, examples, estimator=chosen, tables=tables, **FEW)


OPTIONS: dict[str, dict[str, Any]] = {"BertForMaskedLM": {"tie_word_embeddings": False}}


def adapted(
    name: str,
    *,
    spread: bool = True,
    dtype: torch.dtype = torch.float64,
    **settings: Any,
) -> Any:
    """A tiny model with an adapter, whose matrices are not zero."""
    from peft import LoraConfig, get_peft_model

    usual = {"r": 2, "lora_alpha": 3, "target_modules": LINEAR[name]}
    usual["fan_in_fan_out"] = name == "GPT2LMHeadModel"
    config = LoraConfig(**usual | settings)
    model = get_peft_model(build(name, dtype, **OPTIONS.get(name, {})), config)
    return moved(model) if spread else model


def moved(model: Any, seed: int = 0) -> Any:
    """Move everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * noise.to(parameter.dtype))
    return model


def distance(name: str, model: Any) -> dict[str, Tensor]:
    """How far a model is from θ0, as ``peft`` itself merges it."""
    merged = copy.deepcopy(model).merge_and_unload()
    start = dict(build(name, **OPTIONS.get(name, {})).named_parameters())
    found = {n: (p - start[n]).detach() for n, p in merged.named_parameters()}
    return {n: change.requires_grad_() for n, change in found.items()}


def trained(model: Any) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}
