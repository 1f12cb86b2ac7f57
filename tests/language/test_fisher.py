"""The Gramian of an output map of a head is the Fisher information, by brute force."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import Cotangents, EigenBlock, GramianBlock, KroneckerBlock
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate import Ekfac, Inputs, Kfac, Nearest
from kfac_artifacts.network import Network, TensorExamples
from tests.brute_force import EXACT, check_against_brute_force, jacobians
from tests.computed import compute
from tests.estimate.test_nearest import dense, gramian
from tests.language.heads import (
    CLASSES,
    alone,
    batch_of,
    network_of,
    predicted_logits,
)

LANGUAGE = sorted(CLASSES.keys() - {"BertForSequenceClassification"})
SOME = [
    ("LlamaForCausalLM", 1),
    ("BertForMaskedLM", 3),
    ("T5ForConditionalGeneration", 3),
]
MAPS = {
    **{name: "lm-fisher" for name in LANGUAGE},
    "BertForSequenceClassification": "logits-fisher",
}
RELATIVE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
LEFT_OUT = {
    "GPT2LMHeadModel": {"transformer.wte.weight"},
    "BloomForCausalLM": {"transformer.word_embeddings.weight"},
    "MptForCausalLM": {"transformer.wte.weight"},
    "BertForMaskedLM": {
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.bias",
    },
    "T5ForConditionalGeneration": {
        "shared.weight",
        f"encoder.{RELATIVE}",
        f"decoder.{RELATIVE}",
    },
}


def of(name: str, **options: Any) -> tuple[Network, TensorExamples]:
    network = network_of(name, MAPS[name], **options)
    return network, TensorExamples(batch_of(name), "x")


def scores(name: str, network: Network, *, per_token: bool) -> dict[str, Tensor]:
    """``√p_y ∇ log p_y`` of every example, predicted token and label: ``[N][R, …]``."""
    parameters = network.parameters()
    batch = batch_of(name)
    rows: list[tuple[Tensor, ...]] = []
    for n in range(3):
        logits = predicted_logits(name, network.module, alone(batch, n))
        logs = logits.log_softmax(-1)
        share = len(logits) if per_token else 1
        for t in range(len(logits)):
            for y in range(logits.shape[1]):
                gradient = torch.autograd.grad(
                    logs[t, y],
                    list(parameters.values()),
                    retain_graph=True,
                    materialize_grads=True,
                    allow_unused=True,
                )
                root = (logs[t, y].exp() / share).sqrt().detach()
                rows.append(tuple(root * g for g in gradient))
    return {
        name: torch.stack(column)
        for name, column in zip(parameters, zip(*rows, strict=True), strict=True)
    }


def matrix_of(rows: dict[str, Tensor]) -> Tensor:
    """``Σ rowsᵀ rows / N`` over all parameters together, of three examples."""
    flat = torch.cat([value.flatten(1) for value in rows.values()], dim=1)
    return flat.mT @ flat / 3


def few(network: Network) -> list[str]:
    """Parameters of all kinds that are few enough for one matrix of them all."""
    return [n for n, p in network.parameters().items() if p.numel() <= 100]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("name", MAPS)
def test_the_gramian_of_f_is_the_fisher_of_each_example_alone(
    name: str, raw: bool
) -> None:
    if raw and name not in LANGUAGE:
        return
    map_name = MAPS[name] + "-raw" * raw
    network = network_of(name, map_name)
    J = jacobians(network, batch_of(name))
    chosen = few(network)
    wanted = scores(name, network, per_token=not raw)
    found = matrix_of({n: J[n].flatten(0, 1) for n in chosen})
    exact = matrix_of({n: wanted[n] for n in chosen})
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)  # norms in float32
    assert found.norm() > 1e-3


@pytest.mark.parametrize("name", MAPS)
def test_exact_factors_are_those_of_brute_force(name: str) -> None:
    network, examples = of(name)
    artifact = compute(network, examples, cotangents=EXACT, batch_size=3)
    check_against_brute_force(network, examples, artifact)
    left_out = {**artifact.provenance.uncovered}
    assert left_out.keys() == LEFT_OUT.get(name, set())
    tied = [n for n, why in left_out.items() if "(tied or fused weights)" in why]
    assert len(tied) == bool(left_out)


@pytest.mark.parametrize(("name", "batch_size"), SOME)
def test_ekfac_has_the_diagonal_of_the_fisher(name: str, batch_size: int) -> None:
    network, examples = of(name)
    artifact = compute(
        network,
        examples,
        cotangents=EXACT,
        estimator=Ekfac(shrinkage=False),
        batch_size=batch_size,
    )
    blocks = [b for b in artifact.blocks.values() if isinstance(b, EigenBlock)]
    assert blocks
    for block in blocks:
        G, _ = gramian(network, examples, block)
        A, B, S = (artifact.factors[factor] for factor in block.factors)
        basis = torch.kron(*(factor.fields()["vectors"] for factor in (B, A)))
        wanted = (basis @ G @ basis.mT).diagonal()
        torch.testing.assert_close(S.diagonal(), wanted)


@pytest.mark.parametrize(("name", "batch_size"), SOME)
def test_nearest_is_nearer_to_the_fisher_than_kfac(name: str, batch_size: int) -> None:
    network, examples = of(name)
    kfac, near = (
        compute(
            network,
            examples,
            cotangents=EXACT,
            estimator=estimator,
            batch_size=batch_size,
        )
        for estimator in (Kfac(), Nearest(shrinkage=False))
    )
    gains = []
    for block_name, block in kfac.blocks.items():
        if isinstance(block, KroneckerBlock) and not block.is_table:
            G, _ = gramian(network, examples, block)
            before, after = (
                (dense(each, each.blocks[block_name]) - G).norm()
                for each in (kfac, near)
            )
            assert after <= before * (1 + 1e-9), block_name
            gains.append(float(after / before))
    assert min(gains) < 0.9


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertForMaskedLM"])
def test_inputs_are_the_a_of_kfac(name: str) -> None:
    network, examples = of(name)
    inputs = compute(network, examples, estimator=Inputs())
    kfac = compute(network, examples)
    for block in inputs.blocks.values():
        (factor,) = block.factors
        torch.testing.assert_close(
            inputs.factors[factor].to_dense(), kfac.factors[factor].to_dense()
        )


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "labels") for name in MAPS), ("BertForSequenceClassification", "mc")],
)
def test_drawn_factors_come_to_the_exact_ones(name: str, kind: str) -> None:
    network, examples = of(name)
    exact = compute(network, examples, cotangents=EXACT)
    drawn = compute(network, examples, cotangents=Cotangents(kind, 640, 0))
    names = [f for b in exact.blocks.values() for f in b.outputs]
    whole = [b for b in exact.blocks.values() if isinstance(b, GramianBlock)]
    names += [f for b in whole for f in b.factors]
    pairs = [(drawn.factors[f].to_dense(), exact.factors[f].to_dense()) for f in names]
    errors = [float((a - b).norm() / b.norm()) for a, b in pairs]
    assert sum(errors) / len(errors) < 0.12


def test_labels_are_the_usual_cotangents_and_others_are_refused() -> None:
    network, examples = of("LlamaForCausalLM")
    (source,) = compute(network, examples).provenance.sources
    assert source.cotangents == Cotangents("labels", 1, 0)
    with pytest.raises(SettingsError, match="no orthogonal matrix fits them all"):
        compute(network, examples, cotangents=Cotangents("orthogonal", 1, 0))


@pytest.mark.parametrize(
    "estimator", [Kfac(), Nearest(shrinkage=False), Ekfac(shrinkage=False)]
)
def test_labels_do_not_depend_on_the_batch(estimator: Any) -> None:
    network, examples = of("LlamaForCausalLM")
    found = [
        compute(
            network,
            examples,
            cotangents=Cotangents("labels", 2, 0),
            estimator=estimator,
            batch_size=size,
        )
        for size in (1, 2, 3)
    ]
    for other in found[1:]:
        for name in found[0].factors:
            ours, theirs = (a.factors[name].fields() for a in (found[0], other))
            for field, value in ours.items():
                if field != "vectors":  # which are those of values up to a sign
                    torch.testing.assert_close(value, theirs[field], msg=name)


@pytest.mark.parametrize("map_name", ["lm-fisher", "lm-fisher-raw"])
def test_padding_on_the_left_changes_nothing(map_name: str) -> None:
    network = network_of("LlamaForCausalLM", map_name)
    batch = batch_of("LlamaForCausalLM")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for n, count in enumerate(mask.sum(1).tolist()):
        alone_f = network({"input_ids": ids[n : n + 1, :count]})
        left = torch.zeros_like(ids[n : n + 1])
        left[:, ids.shape[1] - count :] = ids[n, :count]
        real = (torch.arange(ids.shape[1]) >= ids.shape[1] - count).long()[None]
        f = network({"input_ids": left, "attention_mask": real})
        assert f.square().sum().item() == pytest.approx(alone_f.square().sum().item())
