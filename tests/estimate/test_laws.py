"""The laws of the factors, in float64, against brute force with ``torch.func``."""

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch.func import jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from kfac_artifacts.artifact import (
    Cotangents,
    GramianBlock,
    KroneckerBlock,
    NamedConfig,
)
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests import models
from tests.brute_force import EXACT, gramian, jacobians
from tests.computed import compute

F64 = torch.float64


@pytest.fixture(autouse=True)
def _kernel_with_batching_rule() -> Iterator[Any]:
    """``jacrev`` maps over the rows of the Jacobian; fused attention cannot be."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _mean_pool(module: Any, batch: Any) -> Any:
    hidden = module(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return pooled / pooled.norm(dim=-1, keepdim=True)


def _cls(module: Any, batch: Any) -> Any:
    pooled = module(**batch).last_hidden_state[:, 0]
    return pooled / pooled.norm(dim=-1, keepdim=True)


def _clip_image(module: Any, batch: Any) -> Any:
    pooled = module.vision_model(**batch).pooler_output
    image = module.visual_projection(pooled)
    return image / image.norm(dim=-1, keepdim=True)


MAPS = {
    "bert": _mean_pool,
    "t5": _mean_pool,
    "gpt2": _mean_pool,
    "clip": _clip_image,
    "vit": _cls,
}


def network_of(kind: str) -> Network:
    module = models.MODELS[kind](dtype=F64)
    return Network(
        module, OutputMap(NamedConfig(MAPS[kind].__name__), MAPS[kind]), kind
    )


def examples_of(kind: str) -> TensorExamples:
    text = kind in models.TEXT_MODELS
    batch = models.text_batch() if text else models.image_batch(dtype=F64)
    return TensorExamples(batch, "three")


@pytest.mark.parametrize("kind", models.MODELS)
def test_every_parameter_is_covered_or_reported_with_a_reason(kind: str) -> None:
    network = network_of(kind)
    artifact = compute(network, examples_of(kind))
    assert set(artifact.parameters) | set(artifact.provenance.uncovered) == set(
        network.parameters()
    )
    J = jacobians(network, examples_of(kind).batch(range(3)))
    for name, reason in artifact.provenance.uncovered.items():
        if reason == "f does not depend on it":
            assert J[name].norm() == 0, name
        else:
            assert fnmatchcase(name, "*relative_attention_bias*"), (name, reason)


@pytest.mark.parametrize("kind", models.MODELS)
def test_half_precision_covers_the_same_parameters_with_nearly_the_same_factors(
    kind: str,
) -> None:
    network, examples = network_of(kind), examples_of(kind)
    exact = compute(network, examples)
    network.to(dtype=torch.bfloat16)
    half = compute(network, examples)
    assert half.parameters == exact.parameters
    assert half.provenance.base == exact.provenance.base
    largest = max(f.to_dense().norm() for f in exact.factors.values())
    for name, factor in exact.factors.items():
        found, wanted = half.factors[name].to_dense(), factor.to_dense()
        assert found.dtype == torch.float32 or name.endswith(".A")
        error = (found.double() - wanted).norm()
        assert error < 0.2 * wanted.norm() + 1e-3 * largest, name


@pytest.mark.parametrize("kind", models.MODELS)
def test_gramian_blocks_equal_the_brute_force_gramian(kind: str) -> None:
    network = network_of(kind)
    artifact = compute(network, examples_of(kind), cotangents=EXACT)
    J = jacobians(network, examples_of(kind).batch(range(3)))
    blocks = [b for b in artifact.blocks.values() if isinstance(b, GramianBlock)]
    assert blocks
    for block in blocks:
        found = artifact.factors[block.factors[0]].to_dense()
        torch.testing.assert_close(found, gramian(J[block.parameter]))


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2"])
def test_one_example_with_one_position_gives_the_gramian_itself(kind: str) -> None:
    network = network_of(kind)
    batch = {
        "input_ids": torch.tensor([[5]]),
        "attention_mask": torch.tensor([[1]]),
    }
    artifact = compute(network, TensorExamples(batch, "one"), cotangents=EXACT)
    J = jacobians(network, batch)
    for block in artifact.blocks.values():
        if isinstance(block, KroneckerBlock):
            _assert_block_is_gramian(artifact, block, J)


def _assert_block_is_gramian(artifact: Any, block: Any, J: Any) -> None:
    columns = [
        block.gather(dict(zip(block.parameters, parts, strict=True))).flatten()
        for parts in zip(*(J[n].flatten(0, 1) for n in block.parameters), strict=True)
    ]
    G = gramian(torch.stack(columns)[None])
    ((a, b),) = block.terms
    A, B = artifact.factors[a].to_dense(), artifact.factors[b].to_dense()
    torch.testing.assert_close(torch.kron(B, A), G)


@pytest.mark.parametrize("kind", models.MODELS)
def test_factors_equal_their_definition_by_brute_force(kind: str) -> None:
    """B from the Jacobian with respect to each module's output, A from its input."""
    network = network_of(kind)
    examples = examples_of(kind)
    batch = examples.batch(range(3))
    artifact = compute(network, examples, cotangents=EXACT)
    mask = network.mask(batch)
    modules = dict(network.module.named_modules())
    if kind == "t5":  # the table has two names, and is called by the second
        modules["shared"] = modules["encoder.embed_tokens"]
    linear = {
        n: b
        for n, b in artifact.blocks.items()
        if isinstance(b, KroneckerBlock) and isinstance(modules.get(n), torch.nn.Module)
    }
    assert linear
    for name, block in linear.items():
        x, J = _input_and_output_jacobian(network, modules[name], batch)
        ((a, b),) = block.terms
        B = torch.einsum("ncpi,ncpj->ij", J, J) / 3
        torch.testing.assert_close(artifact.factors[b].to_dense(), B)
        rows = _rows(modules[name], x)
        real = rows if mask is None or rows.dim() == 2 else rows[mask]
        real = real.reshape(-1, real.shape[-1])
        if block.bias is not None:
            real = torch.cat([real, torch.ones(len(real), 1, dtype=F64)], dim=1)
        A = real.mT @ real / len(real)
        torch.testing.assert_close(artifact.factors[a].to_dense(), A)


def _rows(module: Any, x: Any) -> Any:
    if isinstance(module, torch.nn.Embedding):
        x = x.expand(3, -1) if x.shape[0] == 1 else x
        one_hot = torch.nn.functional.one_hot(x, module.num_embeddings).to(F64)
        if module.padding_idx is not None:
            one_hot[..., module.padding_idx] = 0
        return one_hot
    if isinstance(module, torch.nn.Conv2d):
        size, stride = module.kernel_size, module.stride
        return torch.nn.functional.unfold(x, size, stride=stride).mT
    return x


def _input_and_output_jacobian(network: Network, module: Any, batch: Any) -> Any:
    seen = {}

    def look(_: Any, args: Any, kwargs: Any, z: Any) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        z = z.expand(3, *z.shape[1:]) if z.shape[0] == 1 else z
        seen["x"], seen["shape"] = x, z.shape

    hook = module.register_forward_hook(look, with_kwargs=True)
    network(batch)
    hook.remove()

    def shifted(delta: Any) -> Any:
        hook = module.register_forward_hook(lambda _m, _a, z: z + delta)
        try:
            return network(batch)
        finally:
            hook.remove()

    J = jacrev(shifted)(torch.zeros(seen["shape"], dtype=F64))
    own = torch.stack([J[n, :, n] for n in range(3)])  # [N, C, *output]
    if isinstance(module, torch.nn.Conv2d):
        return seen["x"], own.flatten(3).mT
    return seen["x"], own[:, :, None] if own.dim() == 3 else own.flatten(2, -2)


@pytest.mark.parametrize("kind", models.MODELS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_batch_size_changes_nothing(kind: str, batch_size: Any) -> None:
    network, examples = network_of(kind), examples_of(kind)
    draws = Cotangents("mc", 2, 7)
    whole = compute(network, examples, cotangents=draws)
    parts = compute(network, examples, cotangents=draws, batch_size=batch_size)
    for name, factor in whole.factors.items():
        torch.testing.assert_close(parts.factors[name].to_dense(), factor.to_dense())


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2"])
def test_padding_contributes_nothing(kind: str) -> None:
    network, examples = network_of(kind), examples_of(kind)
    wider = {
        name: torch.nn.functional.pad(values, (0, 4))
        for name, values in examples.tensors.items()
    }
    first = compute(network, examples, cotangents=EXACT)
    second = compute(network, TensorExamples(wider, "wider"), cotangents=EXACT)
    for name, factor in first.factors.items():
        torch.testing.assert_close(second.factors[name].to_dense(), factor.to_dense())


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_exact_cotangents_are_the_expectation_of_drawn_ones(kind: str) -> None:
    """The error of the mean of M draws must fall like 1/√M and be small at 800."""
    network, examples = network_of(kind), examples_of(kind)
    exact = compute(network, examples, cotangents=EXACT)
    drawn = compute(network, examples, cotangents=Cotangents("mc", 800, 0))
    one = compute(network, examples, cotangents=Cotangents("mc", 1, 0))
    largest = max(f.to_dense().norm() for f in exact.factors.values())
    for name, factor in exact.factors.items():
        if factor.to_dense().norm() < 1e-9 * largest:
            continue  # softmax does not see the bias of the keys
        scale = factor.to_dense().norm()
        error = (drawn.factors[name].to_dense() - factor.to_dense()).norm() / scale
        assert error < 0.25, name
        if not name.endswith(".A"):
            single = (one.factors[name].to_dense() - factor.to_dense()).norm() / scale
            assert single > error


def test_trace_is_that_of_the_gramian_when_inputs_and_gradients_are_independent() -> (
    None
):
    """Constant gradients, random inputs: f sums the positions of a linear map."""
    torch.manual_seed(0)
    module = torch.nn.Linear(5, 4, dtype=F64)

    def total(m: Any, batch: Any) -> Any:
        return m(batch["x"]).sum(1)

    network = Network(module, OutputMap(NamedConfig("sum"), total), "linear")
    x = torch.randn(6, 3, 5, dtype=F64)
    artifact = compute(network, TensorExamples({"x": x}, "x"), cotangents=EXACT)
    A, B = (artifact.factors[n].to_dense() for n in ("weight.A", "weight.B"))
    J = jacobians(network, {"x": x})
    trace = sum(gramian(j).trace() for j in J.values())
    # positions sum up before they are squared, and E[Σ_t a_t] = 0 only for the weight
    cross = gramian(torch.cat([J["weight"].flatten(2), J["bias"]], dim=2)).trace()
    assert math.isclose(trace, cross)
    per_position = torch.cat([x, torch.ones(6, 3, 1, dtype=F64)], dim=2)
    independent = 3 * 4 * per_position.pow(2).sum(2).mean()
    torch.testing.assert_close(A.trace() * B.trace(), independent)


def test_the_model_is_left_as_it_was_found() -> None:
    network = network_of("bert")
    module = network.module
    assert module.config.hidden_dropout_prob > 0
    exact = compute(network, examples_of("bert"))
    module.train()
    module.encoder.eval()
    module.encoder_marker = True  # type: ignore[assignment]
    next(module.parameters()).requires_grad_(False)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    flags = {n: p.requires_grad for n, p in module.named_parameters()}
    hooks = sum(len(m._forward_hooks) for m in module.modules())
    found = compute(network, examples_of("bert"))
    for name, factor in exact.factors.items():
        assert torch.equal(found.factors[name].to_dense(), factor.to_dense())
    assert module.training
    assert not module.encoder.training
    assert flags == {n: p.requires_grad for n, p in module.named_parameters()}
    assert list(before) == [n for n, _ in module.named_parameters()]
    for name, parameter in module.named_parameters():
        assert torch.equal(before[name], parameter)
        assert parameter.grad is None
    assert hooks == sum(len(m._forward_hooks) for m in module.modules())
