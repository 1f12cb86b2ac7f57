"""Text models of many architectures: what is covered is exact, the rest is named."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.estimate import DiagonalGramian, Ekfac, Kfac, KfacReduce, Nearest
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests import models
from tests.brute_force import EXACT, check_against_brute_force, gramian, jacobians
from tests.computed import compute, plan

UNREACHED = "f does not depend on it"
MAY_BE_UNCOVERED = {
    # a table that is looked up once for all examples, for every pair of positions
    "mpnet": ["encoder.relative_attention_bias.weight"],
    "t5-both": ["*.relative_attention_bias.weight"],
    # a table that is read whole, once for all examples
    "deberta-v2": ["encoder.rel_embeddings.weight"],
    "deberta-v2-unshared": ["encoder.rel_embeddings.weight"],
    # as many positions as the longest text of a batch has, padding among them
    "deberta": ["encoder.rel_embeddings.weight", "*.pos_proj.*", "*.pos_q_proj.*"],
    # their weights and biases are used one by one, outside of their modules
    "mamba": ["*.conv1d.*", "*.dt_proj.*"],
}
"""By architecture, with the reason; what is not here must be covered."""


def mean_pool(module: Any, batch: Any) -> Any:
    hidden = module(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return pooled / pooled.norm(dim=-1, keepdim=True)


def last_of_decoder(module: Any, batch: Any) -> Any:
    start = torch.full((len(batch["input_ids"]), 1), models.PAD)
    ids = torch.cat([start, batch["input_ids"][:, :2]], dim=1)
    return module(**batch, decoder_input_ids=ids).last_hidden_state[:, -1]


def same_number(module: Any, batch: Any) -> Any:
    """As many positions in the decoder as in the encoder, but all of them real."""
    ids = batch["input_ids"].flip(1)
    return module(**batch, decoder_input_ids=ids).last_hidden_state.mean(1)


def network_of(kind: str, **options: Any) -> Network:
    f = last_of_decoder if kind == "t5-both" else mean_pool
    module = models.tiny(kind, **options)
    return Network(module, OutputMap(NamedConfig(f.__name__), f), kind)


def texts() -> TensorExamples:
    return TensorExamples(models.text_batch(), "three")


def wider() -> TensorExamples:
    """The same texts with four more tokens of padding each."""
    batch = models.text_batch()
    padded = {k: torch.nn.functional.pad(v, (0, 4)) for k, v in batch.items()}
    return TensorExamples(padded, "wider")


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_every_parameter_is_covered_or_known_not_to_be(kind: str) -> None:
    network = network_of(kind)
    artifact = compute(network, texts(), cotangents=EXACT)
    uncovered = artifact.provenance.uncovered
    assert set(artifact.parameters) | set(uncovered) == set(network.parameters())
    assert not set(artifact.parameters) & set(uncovered)
    J = jacobians(network, texts().batch(range(3)))
    for name, reason in uncovered.items():
        if reason == UNREACHED:
            assert J[name].norm() == 0, name
        else:
            known = MAY_BE_UNCOVERED.get(kind, [])
            assert any(fnmatchcase(name, p) for p in known), (name, reason)


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_covered_blocks_are_exact(kind: str) -> None:
    network = network_of(kind)
    artifact = compute(network, texts(), cotangents=EXACT)
    counts = check_against_brute_force(network, texts(), artifact)
    assert min(counts.values()) > 0


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_padding_contributes_nothing(kind: str) -> None:
    network = network_of(kind)
    first = compute(network, texts(), cotangents=EXACT)
    second = compute(network, wider(), cotangents=EXACT)
    assert first.factors.keys() == second.factors.keys()
    for name, factor in first.factors.items():
        torch.testing.assert_close(second.factors[name].to_dense(), factor.to_dense())


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_the_batch_size_changes_nothing(kind: str) -> None:
    network = network_of(kind)
    whole = compute(network, texts(), cotangents=EXACT)
    parts = compute(network, texts(), cotangents=EXACT, batch_size=1)
    for name, factor in whole.factors.items():
        torch.testing.assert_close(parts.factors[name].to_dense(), factor.to_dense())


def test_the_mask_of_an_encoder_is_not_taken_for_that_of_its_decoder() -> None:
    network = Network(
        models.tiny("t5-both"), OutputMap(NamedConfig("f"), same_number), "t5-both"
    )
    artifact = compute(network, texts(), cotangents=EXACT)
    batch = texts().batch(range(3))
    real = batch["attention_mask"].bool()
    cross = "decoder.block.0.layer.1.EncDecAttention"
    for name, mask in {
        "encoder.block.0.layer.1.DenseReluDense.wi": real,
        "decoder.block.0.layer.2.DenseReluDense.wi": torch.ones_like(real),
        f"{cross}.q": torch.ones_like(real),
        f"{cross}.k": real,
        f"{cross}.v": real,
    }.items():
        seen: list[Any] = []
        hook = network.module.get_submodule(name).register_forward_hook(
            lambda _m, args, _z, seen=seen: seen.append(args[0])
        )
        network(batch)
        hook.remove()
        rows = seen[0].detach()[mask]
        A = artifact.factors[artifact.blocks[name].terms[0][0]].to_dense()
        torch.testing.assert_close(A, rows.mT @ rows / len(rows))


@pytest.mark.parametrize("buckets", [2, 3])
def test_relative_positions_are_not_taken_for_examples(buckets: Any) -> None:
    """There are twice as many as buckets: a multiple of the examples of the proof."""
    network = network_of("deberta-v2", buckets=buckets)
    artifact = compute(network, texts(), cotangents=EXACT)
    uncovered = artifact.provenance.uncovered
    assert "encoder.rel_embeddings.weight" in uncovered
    assert "encoder.layer.0.attention.self.query_proj.weight" not in uncovered
    check_against_brute_force(network, texts(), artifact)


@pytest.mark.parametrize("shared", [True, False])
def test_relative_positions_count_as_positions_of_every_example(shared: Any) -> None:
    network = network_of("deberta-v2", shared=shared)
    artifact = compute(network, texts(), cotangents=EXACT)
    attention = network.module.encoder.layer[1].attention.self
    seen: list[Any] = []
    read = attention.query_proj if shared else attention.pos_query_proj
    for module in {attention.query_proj, read}:
        module.register_forward_hook(lambda _m, args, _z: seen.append(args[0].detach()))
    batch = texts().batch(range(3))
    network(batch)
    tokens, relative = seen
    rows = torch.cat([relative[0]] * 3)
    if shared:
        rows = torch.cat([tokens[batch["attention_mask"].bool()], rows])
    rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    name = "query_proj" if shared else "pos_query_proj"
    block = artifact.blocks[f"encoder.layer.1.attention.self.{name}"]
    A = artifact.factors[block.terms[0][0]].to_dense()
    torch.testing.assert_close(A, rows.mT @ rows / len(rows))


@pytest.mark.parametrize("kind", ["deberta-v2", "deberta-v2-unshared", "deberta"])
def test_a_plan_covers_what_is_applied_to_relative_positions(kind: str) -> None:
    network = network_of(kind)
    blocks = compute(network, texts(), cotangents=EXACT).blocks
    planned = plan(network, texts().batch(range(3)))
    assert {block.name for block in planned.blocks} == blocks.keys()


def test_every_estimator_sees_relative_positions() -> None:
    """Queries of tokens and of relative positions: their gradients add up in M."""
    network = network_of("deberta-v2")
    name = "encoder.layer.1.attention.self.query_proj"
    J = jacobians(network, texts().batch(range(3)))
    G = gramian(torch.cat([J[f"{name}.weight"], J[f"{name}.bias"][..., None]], -1))

    def block(estimator: Any) -> Any:
        made = compute(network, texts(), cotangents=EXACT, estimator=estimator)
        return [made.factors[f].to_dense() for f in made.blocks[name].factors]

    errors = {}
    for estimator in (Kfac(), KfacReduce(), Nearest(shrinkage=False)):
        A, B = block(estimator)
        errors[estimator.name] = (torch.kron(B, A) - G).norm()
    assert errors["nearest"] < min(errors["kfac"], errors["kfac-reduce"])
    (squares,) = block(DiagonalGramian())
    torch.testing.assert_close(squares.diagonal(), G.diagonal())
    *_, S = block(Ekfac(shrinkage=False))
    torch.testing.assert_close(S.trace(), G.trace())
