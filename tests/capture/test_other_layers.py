"""Quantised, parametrized, wrapped and tied layers: exact, or refused by name."""

import hashlib
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.capture import LinearLayer, register_layer, take_inventory
from kfac_artifacts.capture.layers import registry
from kfac_artifacts.errors import CoverageError, KfacError
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests import models
from tests.brute_force import (
    EXACT,
    assert_exact,
    check_against_brute_force,
    randomised,
)
from tests.computed import compute

BEHIND = {"0.weight", "0.bias", "2.weight", "2.bias"}


def network_of(middle: Any, width: int = 4, dtype: Any = torch.float64) -> Any:
    """A layer between two linear ones, with every parameter drawn at random."""
    torch.manual_seed(0)
    first, last = nn.Linear(width, width, dtype=dtype), nn.Linear(width, 3, dtype=dtype)
    f = OutputMap(NamedConfig("f"), lambda m, b: m(b["x"]).sum(1))
    if dtype == torch.float64:
        middle = middle.double()
    return Network(nn.Sequential(first, middle, last), f, "toy")


def examples(width: int = 4, dtype: Any = torch.float64) -> Any:
    x = torch.randn(3, 2, width, generator=torch.Generator().manual_seed(1))
    return TensorExamples({"x": x.to(dtype)}, "x")


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("kind", PARAMETRIZED)
def test_parametrized_weights_are_refused_and_the_rest_is_exact(kind: str) -> None:
    network = network_of(PARAMETRIZED[kind](nn.Linear(4, 4)))
    artifact = compute(network, examples(), cotangents=EXACT)
    assert set(artifact.parameters) == BEHIND
    uncovered = artifact.provenance.uncovered
    assert set(uncovered) == set(network.parameters()) - BEHIND
    assert "1.bias" in uncovered
    for reason in uncovered.values():
        assert "parametrize" in reason
        assert "remove_parametrizations" in reason


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_made_by_hooks_are_refused() -> None:
    network = network_of(nn.utils.weight_norm(nn.Linear(4, 4)))
    artifact = compute(network, examples(), cotangents=EXACT)
    assert set(artifact.parameters) == BEHIND
    uncovered = artifact.provenance.uncovered
    assert set(uncovered) == {"1.weight_g", "1.weight_v", "1.bias"}
    assert all("remove_weight_norm" in reason for reason in uncovered.values())


def _eight_bits(width: Any) -> Any:
    import bitsandbytes

    return bitsandbytes.nn.Linear8bitLt(width, width, has_fp16_weights=False)  # type: ignore[attr-defined]


def _four_bits(width: Any, storage: Any = torch.uint8) -> Any:
    import bitsandbytes

    return bitsandbytes.nn.Linear4bit(  # type: ignore[attr-defined, no-untyped-call]
        width, width, compute_dtype=torch.float32, quant_storage=storage
    )


QUANTISED = {
    "8-bit": _eight_bits,
    "4-bit": _four_bits,
    "4-bit in bfloat16": lambda width: _four_bits(width, torch.bfloat16),
}


@pytest.mark.filterwarnings("ignore")  # of the kernels that a CPU lacks
@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_refused_and_gradients_pass_through_them(
    kind: str,
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 64)
    layer = QUANTISED[kind](64)  # type: ignore[no-untyped-call]
    layer.load_state_dict(plain.state_dict())
    network = network_of(layer.to("cpu"), 64, torch.float32)
    artifact = compute(network, examples(64, torch.float32), cotangents=EXACT)
    assert set(artifact.parameters) == BEHIND
    uncovered = artifact.provenance.uncovered
    assert set(uncovered) == {"1.weight", "1.bias"}
    assert all(f"bitsandbytes {kind[:5]}" in reason for reason in uncovered.values())
    unquantised = network_of(plain, 64, torch.float32)
    exact = compute(unquantised, examples(64, torch.float32), cotangents=EXACT)
    B, wanted = (a.factors["0.B"].to_dense() for a in (artifact, exact))
    assert 0 < (B - wanted).norm() < 0.3 * wanted.norm()


@pytest.mark.filterwarnings("ignore")
def test_four_bits_that_were_repacked_for_inference_are_refused() -> None:
    """On some CPUs a pass without gradients does that, and gradients pass no more."""
    network = network_of(_four_bits(64).to("cpu"), 64, torch.float32)
    compute(network, examples(64, torch.float32))
    state = network.module[1].weight.quant_state
    assert not getattr(state, "packing_format_for_cpu", False)
    state.packing_format_for_cpu = True
    with pytest.raises(CoverageError, match=r"1 is a bitsandbytes.*no gradient pass"):
        compute(network, examples(64, torch.float32))


class _Counted(nn.Linear):
    """Holds a parameter of whole numbers beside its own, as some models do."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.steps = nn.Parameter(torch.tensor([2**24 + 1, 5]), requires_grad=False)


def test_parameters_of_whole_numbers_are_refused_and_hashed_as_they_are() -> None:
    network = network_of(_Counted())
    artifact = compute(network, examples(), cotangents=EXACT)
    assert set(artifact.provenance.uncovered) == {"1.steps"}
    assert "int64" in artifact.provenance.uncovered["1.steps"]
    content = torch.tensor([2**24 + 1, 5]).numpy().astype("<i8").tobytes()
    found = network.base.parameters["1.steps"]
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert "1.steps" not in artifact.provenance.base.parameters
    check_against_brute_force(network, examples(), artifact)


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated in favour of torchao
def test_a_layer_that_lets_no_gradient_pass_is_refused() -> None:
    """Around it there might be a way for gradients, and all would be wrong."""
    linear = nn.Linear(4, 4)
    linear.qconfig = torch.ao.quantization.default_dynamic_qconfig  # type: ignore[assignment]
    layer = torch.ao.nn.quantized.dynamic.Linear.from_float(linear)
    network = network_of(layer, dtype=torch.float32)
    with pytest.raises(CoverageError, match=r"1 is a torch\.ao.*load the model unq"):
        compute(network, examples(dtype=torch.float32))


class _Adapted(nn.Module):
    """``W x + B A x`` and its scale: what LoRA does."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 4)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})

    def forward(self, x: Any) -> Any:
        low = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + 16 * low


def test_adapters_of_low_rank_are_exact() -> None:
    network = network_of(_Adapted())
    artifact = compute(network, examples(), cotangents=EXACT)
    assert set(artifact.parameters) == set(network.parameters())
    check_against_brute_force(network, examples(), artifact)


def test_adapters_that_are_zero_at_first_are_told_apart_from_dead_ones() -> None:
    """LoRA begins with B = 0, so that f does not depend on A to first order."""
    network = network_of(_Adapted())
    with torch.no_grad():
        network.module[1].lora_B["default"].weight.zero_()
    artifact = compute(network, examples(), cotangents=EXACT)
    assert "1.lora_B.default.weight" in artifact.parameters
    for name, reason in artifact.provenance.uncovered.items():
        assert (name, reason) == ("1.lora_A.default.weight", "f does not depend on it")


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_table_tied_to_the_head_is_refused_and_the_rest_is_exact(kind: str) -> None:
    from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

    build = {"gpt2": models.tiny_gpt2, "t5": models.tiny_t5}[kind]
    config = build().config
    config.tie_word_embeddings = True
    if kind == "t5":
        config.is_encoder_decoder, config.num_decoder_layers = True, 1
        module = T5ForConditionalGeneration(config).double().eval()
    else:
        module = GPT2LMHeadModel(config).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))

    def logits(m: Any, batch: Any) -> Any:
        extra = {"decoder_input_ids": batch["input_ids"][:, :1]} if kind == "t5" else {}
        return m(**batch, **extra).logits[:, 0, :5]

    network = Network(module, OutputMap(NamedConfig("logits"), logits), kind)
    texts = TensorExamples(models.text_batch(), "texts")
    artifact = compute(network, texts, cotangents=EXACT)
    table = "transformer.wte.weight" if kind == "gpt2" else "shared.weight"
    assert "tied" in artifact.provenance.uncovered[table]
    parameters = set(artifact.parameters) | set(artifact.provenance.uncovered)
    assert parameters == set(network.parameters())
    check_against_brute_force(network, texts, artifact)


class Lent(nn.Module):
    """A head as BERT's: it holds the bias of its map, and calls the map alone."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))
        self.decoder = nn.Linear(4, 3)
        self.decoder.bias = self.bias

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.decoder(x))


def test_a_bias_that_is_computed_is_refused_with_its_weight() -> None:
    class Half(nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return value / 2

    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    parametrize.register_parametrization(module[0], "bias", Half())
    inventory = take_inventory(module)
    (layer,) = inventory.layers
    assert layer.parameters == {"weight": "1.weight", "bias": "1.bias"}
    refused = {"0.weight", "0.parametrizations.bias.original"}
    assert inventory.uncovered.keys() == refused
    assert all("computed from others" in why for why in inventory.uncovered.values())


def test_a_bias_that_another_module_holds_is_covered_with_its_weight() -> None:
    module = randomised(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), Lent()))
    batch = {"x": torch.randn(3, 5, dtype=torch.float64)}
    assert not assert_exact(module, lambda m, b: m(b["x"]), batch)
    layers = {layer.name: layer for layer in take_inventory(module).layers}
    assert layers["2.decoder"].parameters == {
        "weight": "2.decoder.weight",
        "bias": "2.bias",
    }


class _Odd(nn.Module):
    """Holds a parameter without numbers, and a linear map that gives a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.registers = nn.Parameter(torch.zeros(1, 0, 4))
        self.pair = _Pair()

    def forward(self, x: Any) -> Any:
        return torch.cat([self.registers.expand(len(x), -1, -1), self.pair(x)[0]], 1)


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Any) -> Any:
        return x @ self.weight, None


def test_what_has_no_numbers_or_gives_no_tensor_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    register_layer(_Pair, lambda _, name, parameters: LinearLayer(name, parameters))
    network = network_of(_Odd())
    artifact = compute(network, examples(), cotangents=EXACT)
    uncovered = artifact.provenance.uncovered
    assert uncovered["1.registers"] == "a parameter without numbers"
    assert "takes or gives something but tensors" in uncovered["1.pair.weight"]
    assert set(artifact.parameters) >= BEHIND
    check_against_brute_force(network, examples(), artifact)


class _InPlace(nn.Module):
    """Changes what its gradient needs."""

    def forward(self, x: Any) -> Any:
        z = x.exp()
        z += 1
        return z


def test_a_model_that_has_no_gradient_is_told_in_a_line() -> None:
    with pytest.raises(KfacError, match=r"toy cannot be run with gradients.*inplace"):
        compute(network_of(_InPlace()), examples(), cotangents=EXACT)
