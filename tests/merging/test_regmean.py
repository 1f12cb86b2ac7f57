"""RegMean with the A of artifacts: which of them, of what, and what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kfac_artifacts as kfac
from kfac_artifacts.artifact import (
    Artifact,
    Block,
    EigenBlock,
    GramianBlock,
    HeldFactors,
    InputsBlock,
    KroneckerBlock,
    Layout,
    LinearBlock,
    NamedConfig,
)
from kfac_artifacts.factors import Dense, Diagonal, Factor, LowRank
from kfac_artifacts.network import Batch
from kfac_artifacts.task_vector import TaskVector, merging_by
from tests import models
from tests.artifacts import provenance, psd
from tests.computed import compute
from tests.merging.vectors import assert_same, drawn, merged

SHAPES = {
    "q.weight": (5, 4),
    "q.bias": (5,),
    "conv1d.weight": (4, 6),
    "conv1d.bias": (6,),
    "patches.weight": (3, 2, 2, 2),
    "table.weight": (9, 4),
    "experts.weight": (3, 4, 5),
    "experts.bias": (3, 4),
    "norm": (6,),
}
ROWS, COLUMNS = Layout.ROWS, Layout.COLUMNS
BLOCKS: dict[str, LinearBlock] = {
    "q": KroneckerBlock("q.weight", "q.bias", ROWS, (("qA", "qB"),), positions=10),
    "conv1d": InputsBlock("conv1d.weight", "conv1d.bias", COLUMNS, (("cA",),), None, 7),
    "patches": InputsBlock(
        "patches.weight", None, ROWS, (("pA",),), positions=5, constant=True
    ),
    "table": KroneckerBlock(
        "table.weight", None, COLUMNS, (("tA", "tB"),), positions=10
    ),
    "expert0": InputsBlock("experts.weight", "experts.bias", ROWS, (("e0",),), 0, 3),
    "expert2": InputsBlock("experts.weight", "experts.bias", ROWS, (("e2",),), 2, 4),
}
FREE = GramianBlock("norm", (("norm.G",),))


def toy(seed: int, blocks: Mapping[str, Block] = {**BLOCKS, "norm": FREE}) -> Artifact:
    """An artifact of the model of the drawn task vectors."""
    base = drawn(1, SHAPES)[0].base
    sizes = {n: d for block in blocks.values() for n, d in block.sizes(SHAPES)}
    factors: dict[str, Factor] = {
        name: Dense(psd(dim, 100 * seed + i, torch.float32))
        for i, (name, dim) in enumerate(sizes.items())
    }
    if "tA" in factors:
        factors["tA"] = Diagonal(psd(9, seed, torch.float32).diagonal().clone())
    covered = {name for block in blocks.values() for name in block.parameters}
    info = replace(provenance(SHAPES), base=base.restrict(covered))
    return Artifact(info, dict(blocks), HeldFactors(factors))


def regression(
    block: LinearBlock,
    taus: Sequence[Mapping[str, Tensor]],
    artifacts: Sequence[Artifact],
    off: float,
    weights: Sequence[float],
) -> Tensor:
    """The paper's formula on the matrices of one block."""
    pulled, total = torch.zeros(()), torch.zeros(())
    for tau, artifact, weight in zip(taus, artifacts, weights, strict=True):
        A = artifact.factors[block.inputs[0]].to_dense().double()
        A = A[:-1, :-1] if block.constant else A
        A = weight * (off * A + (1 - off) * A.diagonal().diag())
        W = block.gather({n: t.double() for n, t in tau.items()})
        pulled, total = pulled + W @ A, total + A
    return pulled @ torch.linalg.inv(total)


def counted(artifact: Artifact, times: int) -> Artifact:
    """The same with other numbers of positions, none the same multiple."""
    blocks = {
        name: block.with_positions((block.positions or 0) * times + 1)
        for name, block in artifact.blocks.items()
    }
    return replace(artifact, blocks=blocks)


@pytest.mark.parametrize("weights", ["equal", "positions"])
@pytest.mark.parametrize("off", [0.9, 0.5])
def test_every_block_is_regressed_on_its_own_inputs(weights: str, off: float) -> None:
    vectors, artifacts = drawn(3, SHAPES), [toy(1), toy(2), toy(3)]
    if weights == "positions":
        artifacts = [counted(a, number) for number, a in enumerate(artifacts)]
    method = kfac.RegMean(tuple(artifacts), off_diagonal=off, weights=weights)
    found = merged(vectors, method)
    taus = [v.tensors for v in vectors]
    for name, block in BLOCKS.items():
        counts = [a.blocks[name].positions or 0 for a in artifacts]
        wanted = regression(
            block, taus, artifacts, off, counts if weights == "positions" else [1] * 3
        )
        torch.testing.assert_close(
            block.gather(found).double(), wanted, rtol=1e-4, atol=1e-5
        )
    means = {n: torch.stack([t[n] for t in taus]).mean(0) for n in SHAPES}
    torch.testing.assert_close(found["norm"], means["norm"])
    for name in ("experts.weight", "experts.bias"):  # the second expert has no A
        torch.testing.assert_close(found[name][1], means[name][1])
    assert merging_by(method, vectors, [1.0] * 3).averaged == ("norm",)


def test_equal_task_vectors_give_that_task_vector() -> None:
    (a,) = drawn(1, SHAPES)
    assert_same(merged([a, a], kfac.RegMean((toy(1), toy(2)))), a.tensors)


def test_equal_inputs_give_the_mean() -> None:
    vectors = drawn(3, SHAPES)
    found = merged(vectors, kfac.RegMean((toy(1),) * 3, off_diagonal=1.0))
    mean = {n: torch.stack([v.tensors[n] for v in vectors]).mean(0) for n in SHAPES}
    assert_same(found, mean)


def test_the_order_of_the_tasks_changes_nothing() -> None:
    (a, b), (c, d) = drawn(2, SHAPES), (toy(1), toy(2))
    assert_same(
        merged([a, b], kfac.RegMean((c, d))), merged([b, a], kfac.RegMean((d, c)))
    )


def test_a_factor_scales_its_task_vector_and_not_its_inputs() -> None:
    (a, b), method = drawn(2, SHAPES), kfac.RegMean((toy(1), toy(2)))
    found = kfac.merge_task_vectors([a, b], [0.5, -2.0], method).tensors
    assert_same(found, merged([0.5 * a, -2.0 * b], method))


def only(vector: TaskVector, *names: str) -> TaskVector:
    kept = {n: vector.tensors[n] for n in names}
    return TaskVector(kept, vector.base.restrict(set(names)))


def test_a_task_that_did_not_move_a_parameter_wants_it_to_stay() -> None:
    a, b = drawn(2, SHAPES)
    still = {n: t if n == "q.weight" else 0 * t for n, t in b.tensors.items()}
    method = kfac.RegMean((toy(1), toy(2)))
    lacking = merged([a, only(b, "q.weight")], method)
    assert_same(lacking, merged([a, TaskVector(still, b.base)], method))


def test_a_bias_that_nobody_moved_stays_and_the_weight_makes_the_best_of_it() -> None:
    vectors = [only(v, "q.weight") for v in drawn(2, SHAPES)]
    artifacts = (toy(1), toy(2))
    found = merged(vectors, kfac.RegMean(artifacts, off_diagonal=1.0))
    assert [*found] == ["q.weight"]
    As = [a.factors["qA"].to_dense()[:4, :4].double() for a in artifacts]
    Ws = [v.tensors["q.weight"].double() for v in vectors]
    wanted = (Ws[0] @ As[0] + Ws[1] @ As[1]) @ torch.linalg.inv(As[0] + As[1])
    torch.testing.assert_close(found["q.weight"].double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_bias_alone_is_regressed_on_the_constant_input() -> None:
    vectors = [only(v, "q.bias") for v in drawn(2, SHAPES)]
    artifacts = (toy(1), toy(2))
    found = merged(vectors, kfac.RegMean(artifacts))["q.bias"].double()
    a, b = (each.factors["qA"].to_dense()[-1, -1].double() for each in artifacts)
    x, y = (v.tensors["q.bias"].double() for v in vectors)
    wanted = (a * x + b * y) / (a + b)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_compressed_inputs_are_taken_as_they_are() -> None:
    vectors, artifacts = drawn(2, SHAPES), [toy(1), toy(2)]
    small = []
    for artifact in artifacts:
        low = LowRank.of_dense(artifact.factors["qA"].to_dense(), 2)
        factors = HeldFactors({**artifact.factors, "qA": low})
        small.append(replace(artifact, factors=factors))
    found = merged(vectors, kfac.RegMean(tuple(small)))
    taus = [v.tensors for v in vectors]
    wanted = regression(BLOCKS["q"], taus, small, 0.9, [1, 1])
    torch.testing.assert_close(
        BLOCKS["q"].gather(found).double(), wanted, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("estimator", ["inputs", "kfac", "ekfac"])
def test_computed_artifacts_make_the_merged_layer_do_each_task_best(
    estimator: str,
) -> None:
    """On the inputs themselves: no least squares of numpy comes closer."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    network = kfac.Network(
        layer, kfac.OutputMap(NamedConfig("all"), lambda m, b: m(b["x"])), "toy"
    )
    xs = [torch.randn(70, 4) @ torch.randn(4, 4) for _ in range(2)]
    vectors, artifacts = [], []
    for number, x in enumerate(xs):
        data = kfac.TensorExamples({"x": x}, f"data {number}")
        chosen = kfac.choose_estimator(estimator)
        artifacts.append(compute(network, data, count=70, estimator=chosen))
        tensors = {n: torch.randn(p.shape) for n, p in layer.named_parameters()}
        vectors.append(TaskVector(tensors, network.base))
    found = merged(vectors, kfac.RegMean(tuple(artifacts), off_diagonal=1.0))
    inputs = [torch.cat([x, torch.ones(70, 1)], 1) for x in xs]
    wanted_outputs = [
        x @ torch.cat([v.tensors["weight"], v.tensors["bias"][:, None]], 1).mT
        for x, v in zip(inputs, vectors, strict=True)
    ]
    best = torch.linalg.lstsq(torch.cat(inputs), torch.cat(wanted_outputs)).solution.mT
    torch.testing.assert_close(found["weight"], best[:, :4], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["bias"], best[:, 4], rtol=1e-3, atol=1e-4)


FAMILIES = {
    "bert": (models.tiny_bert, models.text_batch),
    "gpt2": (models.tiny_gpt2, models.text_batch),
    "mixtral": (
        partial(models.tiny, "mixtral", dtype=torch.float32),
        models.text_batch,
    ),
    "vit": (models.tiny_vit, models.image_batch),
}


def pooled(module: nn.Module, batch: Batch) -> Tensor:
    """The mean over positions, without padding."""
    hidden = module(**batch).last_hidden_state
    real = batch.get("attention_mask", torch.ones(hidden.shape[:2]))[..., None]
    return (hidden * real).sum(1) / real.sum(1)


def other_data(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other tokens, padded as before, or other pixels."""
    if "pixel_values" in batch:
        return {"pixel_values": batch["pixel_values"].flip(-1).square()}
    ids, mask = batch["input_ids"], batch["attention_mask"]
    return batch | {"input_ids": (4 + 5 * ids % 20) * mask}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_of_a_model_has_a_gradient_left(family: str) -> None:
    """``Σ_t (W - W_t) A_t`` is zero: tables, Conv1D, patches and experts included."""
    build, batch = FAMILIES[family]
    module = build()
    f = kfac.OutputMap(NamedConfig("f"), pooled)
    network = kfac.Network(module, f, family)
    artifacts, vectors = [], []
    for number, inputs in enumerate((batch(), other_data(batch()))):
        data = kfac.TensorExamples(inputs, f"data {number}")
        chosen = kfac.choose_estimator("inputs")
        artifacts.append(compute(network, data, estimator=chosen))
        generator = torch.Generator().manual_seed(number)
        moved = {
            n: torch.randn(s, generator=generator) for n, s in network.shapes.items()
        }
        vectors.append(TaskVector(moved, network.base))
    found = merged(vectors, kfac.RegMean(tuple(artifacts), off_diagonal=1.0))
    assert any(block.part is not None for block in artifacts[0].blocks.values()) == (
        family == "mixtral"
    )
    for name in artifacts[0].blocks:
        pulls, sizes = [], []
        for vector, artifact in zip(vectors, artifacts, strict=True):
            theirs = artifact.blocks[name]
            A = {n: artifact.factors[n] for n in theirs.factors}
            away = theirs.gather(found) - theirs.gather(vector.tensors)
            pulls.append(theirs.product(away, A))
            sizes.append(theirs.product(theirs.gather(vector.tensors), A).abs())
        limit = 1e-4 * float(torch.stack(sizes).max())
        assert float(torch.stack(pulls).sum(0).abs().max()) <= limit, name


def without(artifact: Artifact, name: str) -> Artifact:
    blocks = {n: b for n, b in artifact.blocks.items() if n != name}
    return replace(artifact, blocks=blocks)


def told(artifact: Artifact, **changes: Any) -> Artifact:
    return replace(artifact, provenance=replace(artifact.provenance, **changes))


def test_what_does_not_fit_is_refused_by_name() -> None:
    vectors, one, two = drawn(2, SHAPES), toy(1), toy(2)
    other = told(two, base=drawn(1, {"r.weight": (1, 1)})[0].base)
    values = replace(two.provenance.base.parameters["q.weight"], sha256="0" * 64)
    changed = {**two.provenance.base.parameters, "q.weight": values}
    unlike = told(two, base=replace(two.provenance.base, parameters=changed))
    summed = KroneckerBlock(
        "q.weight", "q.bias", ROWS, (("qA", "qB"), ("qA", "qB")), positions=1
    )
    norms = toy(1, {"norm": FREE})
    for second, message in {
        without(two, "q"): r"artifact 2 has no A of q \(of q.weight, q.bias, rows\)",
        replace(two, blocks={**two.blocks, "q": summed}): "artifact 2 has no A of q",
        told(two, estimator=NamedConfig("nearest")): "artifact 2 .*fitted.*nearest",
        told(two, estimator=NamedConfig("kfac-reduce")): "artifact 2 .*averaged",
        other: r"artifact 2; it .*share no parameter",
        unlike: r"artifact 2; it .*other values in q.weight",
    }.items():
        with pytest.raises(kfac.MismatchError, match=message):
            merged(vectors, kfac.RegMean((one, second)))
    with pytest.raises(kfac.MismatchError, match=r"artifact 1 has no A of q"):
        merged(vectors, kfac.RegMean((without(one, "q"), two)))
    with pytest.raises(kfac.MismatchError, match="2 task vectors and 1 artifacts"):
        merged(vectors, kfac.RegMean((one,)))
    with pytest.raises(kfac.MismatchError, match="2 task vectors and 0 artifacts"):
        merged(vectors, "regmean")
    with pytest.raises(kfac.MismatchError, match=r"no parameter .* has an A"):
        merged(vectors, kfac.RegMean((norms, norms)))
    uncounted = {n: b.with_positions(None) for n, b in one.blocks.items()}
    silent = replace(one, blocks=uncounted)
    with pytest.raises(kfac.MismatchError, match="q of artifact 2 does not say"):
        merged(vectors, kfac.RegMean((one, silent), weights="positions"))
    merged(vectors, kfac.RegMean((one, silent)))
    for wrong in ({"off_diagonal": 1.1}, {"weights": "size"}):
        with pytest.raises(kfac.SettingsError, match=next(iter(wrong))[:7]):
            kfac.RegMean((one, two), **wrong)


def test_an_indefinite_a_is_refused_by_name() -> None:
    vectors, bad = drawn(1, SHAPES), toy(1)
    matrix = torch.eye(5)
    matrix[0, 1] = matrix[1, 0] = 3.0
    factors = HeldFactors({**bad.factors, "qA": Dense(matrix)})
    with pytest.raises(kfac.FactorError, match="A of q: it is clearly indefinite"):
        merged(vectors, kfac.RegMean((replace(bad, factors=factors),)))


def test_a_weight_of_two_modules_gets_the_mean_and_is_named() -> None:
    tied = InputsBlock("table.weight", None, ROWS, (("h",),))
    blocks = {"table": BLOCKS["table"], "head": tied, "q": BLOCKS["q"]}
    vectors, artifacts = drawn(2, SHAPES), (toy(1, blocks), toy(2, blocks))
    merging = merging_by(kfac.RegMean(artifacts), vectors, [1.0, 1.0])
    assert set(SHAPES) - set(merging.averaged) == {"q.weight", "q.bias"}


def test_models_say_which_artifacts_were_used() -> None:
    method = kfac.RegMean((replace(toy(1), digest="sha256:abc"),), weights="equal")
    described = merging_by(method, drawn(1, SHAPES), [1.0]).describe()
    assert described == {
        "method": "regmean",
        "settings": {"off_diagonal": 0.9, "weights": "equal"},
        "curvature": [{"digest": "sha256:abc", "data": ["texts"]}],
        "averaged": ["norm"],
    }


def test_blocks_of_other_kinds_that_have_an_a_are_taken() -> None:
    eigen = EigenBlock("q.weight", "q.bias", ROWS, (("qA", "qB", "qS"),))
    vectors, artifact = drawn(1, SHAPES), toy(1, {"q": BLOCKS["q"]})
    A = artifact.factors["qA"].to_dense()
    factors = HeldFactors({"qA": LowRank.of_dense(A, 5, remainder=False)})
    found = replace(artifact, blocks={"q": eigen}, factors=factors)
    wanted = merged(vectors * 2, kfac.RegMean((artifact, artifact)))
    assert_same(merged(vectors * 2, kfac.RegMean((found, artifact))), wanted)
