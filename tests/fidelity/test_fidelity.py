"""Fidelity in float64, against brute force with ``torch.func``."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel

from kfac_artifacts.artifact import (
    Artifact,
    EigenBlock,
    GramianBlock,
    HeldFactors,
    KroneckerBlock,
    Layout,
    NamedConfig,
)
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.errors import CoverageError, MismatchError, SettingsError
from kfac_artifacts.estimate import Ekfac, Nearest
from kfac_artifacts.factors import Dense, Diagonal, LowRank
from kfac_artifacts.fidelity import Comparison, Fidelity, fidelity
from kfac_artifacts.fidelity.directions import Random, gradients
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Batch, Network, OutputMap, TensorExamples
from kfac_artifacts.task_vector import TaskVector
from tests import models
from tests.artifacts import dense_block
from tests.brute_force import EXACT, jacobians
from tests.computed import compute

F64 = torch.float64


@pytest.fixture(autouse=True)
def _kernel_with_forward_mode() -> Iterator[None]:
    """``jvp`` has no rule for fused attention."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _mean_pool(module: Module, batch: dict[str, Tensor]) -> Tensor:
    hidden = module(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return pooled / pooled.norm(dim=-1, keepdim=True)


def bert(seed: int = 0) -> Network:
    module = models.tiny_bert(seed, dtype=F64)
    return Network(module, OutputMap(NamedConfig("mean"), _mean_pool), "bert")


def texts(count: int, seed: int, name: str = "texts") -> TensorExamples:
    """Texts of two to five tokens, of few words."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 12, (count, 5), generator=generator)
    lengths = torch.randint(2, 6, (count, 1), generator=generator)
    mask = (torch.arange(5) < lengths).long()
    return TensorExamples({"input_ids": ids * mask, "attention_mask": mask}, name)


def of_block(J: dict[str, Tensor], block: GramianBlock | KroneckerBlock) -> Tensor:
    """``[N, C, D]`` of one block, its columns as ``vec W`` has them."""
    n, c = J[block.parameters[0]].shape[:2]
    rows = [
        block.gather({name: J[name][i, k] for name in block.parameters})
        for i in range(n)
        for k in range(c)
    ]
    return torch.stack(rows).reshape(n, c, -1)


def brute_force(
    network: Network, artifact: Artifact, batch: dict[str, Tensor]
) -> dict[str, tuple[Tensor, ...]]:
    """``‖K‖²``, ``⟨G, K⟩`` and ``‖G‖²`` of every block, pairs of different examples."""
    found: dict[str, tuple[Tensor, ...]] = {}
    jacobian = jacobians(network, batch)
    for name, block in artifact.blocks.items():
        J = of_block(jacobian, block)
        G = torch.einsum("ncp,ncq->npq", J, J)
        K = block.scale(artifact.provenance.tasks) * dense_block(artifact, name)
        n = len(G)
        products = torch.einsum("npq,mpq->nm", G, G)
        pairs = (products.sum() - products.diagonal().sum()) / (n * (n - 1))
        found[name] = (K.square().sum(), (G.mean(0) * K).sum(), pairs, G, K)
    return found


@pytest.fixture(scope="module")
def artifacts() -> dict[str, Artifact]:
    network = bert()
    one, two = (
        compute(network, texts(6, seed, name), cotangents=EXACT)
        for seed, name in ((1, "one"), (2, "two"))
    )
    nearest = compute(
        network,
        texts(6, 1, "one"),
        estimator=Nearest(terms=2, shrinkage=False),
    )
    eigen = [
        compute(network, texts(6, seed, name), estimator=Ekfac())
        for seed, name in ((1, "one"), (2, "two"))
    ]
    return {
        "kfac": one,
        "merged": merge([one, two]),
        "two terms": nearest,
        "eigen": merge(eigen),
        "few vectors": compressed(eigen[0]),
    }


def compressed(artifact: Artifact) -> Artifact:
    """Leading vectors with the diagonal of the rest, in float64."""
    factors = dict(artifact.factors)
    for block in artifact.blocks.values():
        if isinstance(block, EigenBlock):
            a, b, s = block.factors
            A, B = _cut(artifact.factors[a], 3), _cut(artifact.factors[b], 2)
            dims = [artifact.factors[name].dim for name in (b, a)]
            S = artifact.factors[s].diagonal().view(*dims)[:2, :3]
            factors |= {a: A, b: B, s: Diagonal(S.flatten())}
    return replace(artifact, factors=HeldFactors(factors))


def _cut(factor: Any, rank: int) -> LowRank:
    few = LowRank(factor.vectors[:rank], factor.values[:rank])
    return few.completed(factor.diagonal())


@pytest.mark.parametrize(
    "which", ["kfac", "merged", "two terms", "eigen", "few vectors"]
)
def test_the_error_is_that_of_the_gramians_over_pairs_of_different_examples(
    artifacts: dict[str, Artifact], which: str
) -> None:
    network, data, artifact = bert(), texts(5, 7), artifacts[which]
    found = fidelity(artifact, network, data, draws=None, directions=0, batch_size=2)
    expected = brute_force(network, artifact, data.batch(range(5)))
    assert [m.name for m in found.modules] == list(artifact.blocks)
    for module in found.modules:
        square, inner, pairs, _, _ = expected[module.name]
        _assert_compares(module.comparison, square, inner, pairs)
    sums = [
        sum(values) for values in zip(*(e[:3] for e in expected.values()), strict=True)
    ]
    _assert_compares(found.total, *sums)
    assert set(found.kinds) == {b.kind for b in artifact.blocks.values()}
    for kind, comparison in found.kinds.items():
        of_kind = [expected[m.name][:3] for m in found.modules if m.kind == kind]
        sums = [sum(values) for values in zip(*of_kind, strict=True)]
        _assert_compares(comparison, *sums)
    shares = [found.share(module) for module in found.modules]
    assert sum(shares) == pytest.approx(1)
    lost = {m.name: m.comparison.lost for m in found.modules}
    assert shares[0] == pytest.approx(next(iter(lost.values())) / sum(lost.values()))


def _assert_compares(
    comparison: Comparison, square: Tensor, inner: Tensor, pairs: Tensor
) -> None:
    assert comparison.norm**2 == pytest.approx(float(pairs))
    assert comparison.predicted_norm**2 == pytest.approx(float(square))
    error = float((square - 2 * inner + pairs) / pairs)
    assert comparison.squared_error == pytest.approx(error)
    assert comparison.error == pytest.approx(max(error, 0) ** 0.5)
    assert comparison.cosine == pytest.approx(float(inner / (square * pairs).sqrt()))
    assert comparison.best_scale == pytest.approx(float(inner / square))


def test_the_standard_error_is_that_of_leaving_each_example_out(
    artifacts: dict[str, Artifact],
) -> None:
    network, data, artifact = bert(), texts(5, 7), artifacts["kfac"]
    found = fidelity(artifact, network, data, draws=None, directions=0)
    expected = brute_force(network, artifact, data.batch(range(5)))
    square, _, _, G, K = expected[found.modules[0].name]
    without = []
    for i in range(5):
        kept = G[[j for j in range(5) if j != i]]
        products = torch.einsum("npq,mpq->nm", kept, kept)
        pairs = (products.sum() - products.diagonal().sum()) / 12
        without.append((square - 2 * (kept.mean(0) * K).sum() + pairs) / pairs)
    error = (4 * torch.stack(without).var(correction=0)).sqrt()
    assert found.modules[0].comparison.standard_error == pytest.approx(float(error))


def test_drifts_are_those_of_the_jacobian(artifacts: dict[str, Artifact]) -> None:
    network, artifact = bert(), artifacts["merged"]
    data = texts(5, 7)
    found = fidelity(
        artifact,
        network,
        data,
        draws=None,
        directions=2,
        directions_data=texts(20, 8),
        seed=3,
    )
    batch, names = data.batch(range(5)), list(artifact.parameters)
    other = texts(20, 8)
    chosen = choose_examples(20, 16, 3)
    taus = {
        "random": [Random(network, 3, number).parts(names) for number in range(2)],
        "gradient": [d.parts(names) for d in gradients(network, other, chosen, 3)],
    }
    assert set(found.directions) == set(taus)
    for kind, directions in taus.items():
        for number, tau in enumerate(directions):
            drift = found.directions[kind].total[number]
            squares = _moved(network, batch, tau).square().sum(1)
            assert drift.true == pytest.approx(float(squares.mean()))
            spread = float(squares.std()) / 5**0.5
            assert drift.standard_error == pytest.approx(spread)
            assert drift.predicted == pytest.approx(float(artifact.drift(tau)))
            _assert_parts(found, artifact, network, batch, (kind, number, tau))


def _moved(
    network: Network, batch: dict[str, Tensor], tau: dict[str, Tensor]
) -> Tensor:
    values = {n: network.parameters()[n].detach() for n in tau}
    change = jvp(lambda p: network.functional_call(p, batch), (values,), (dict(tau),))[
        1
    ]
    return change.detach()


def _assert_parts(
    found: Fidelity,
    artifact: Artifact,
    network: Network,
    batch: dict[str, Tensor],
    direction: tuple[str, int, dict[str, Tensor]],
) -> None:
    kind, number, tau = direction
    for module in found.modules:
        block = artifact.blocks[module.name]
        own = {n: tau[n] for n in block.parameters}
        part = module.drifts[kind][number]
        true = _moved(network, batch, own).square().sum(1).mean()
        assert part.true == pytest.approx(float(true), rel=1e-6, abs=1e-12), module.name
        W = block.gather(own)
        K = block.scale(2) * block.product(W, artifact.factors)
        assert part.predicted == pytest.approx(
            float((W * K).sum()), rel=1e-6, abs=1e-12
        )


def _image(module: Module, batch: Batch) -> Any:
    pooled = module.vision_model(**batch).pooler_output
    return module.visual_projection(pooled)


def _cls(module: Module, batch: Batch) -> Any:
    return module(**batch).last_hidden_state[:, 0]


@pytest.mark.parametrize(
    ("kind", "f"),
    [("t5", _mean_pool), ("gpt2", _mean_pool), ("vit", _cls), ("clip", _image)],
)
def test_drifts_of_every_kind_of_model_are_those_of_the_jacobian(
    kind: str, f: Callable[..., Any]
) -> None:
    network = Network(
        models.MODELS[kind](dtype=F64), OutputMap(NamedConfig(kind), f), kind
    )
    text = kind in models.TEXT_MODELS
    batch = models.text_batch() if text else models.image_batch(dtype=F64)
    few = {name: values[:2] for name, values in batch.items()}
    parts = [
        compute(network, TensorExamples(few, name), cotangents=EXACT)
        for name in ("one", "two")
    ]
    artifact, data = merge(parts), TensorExamples(batch, "three")
    found = fidelity(artifact, network, data, draws=None, directions=1)
    tau = Random(network, 0, 0).parts(list(artifact.parameters))
    _assert_parts(found, artifact, network, batch, ("random", 0, tau))


def test_a_gradient_direction_is_the_mean_gradient_along_signs() -> None:
    network, data = bert(), texts(5, 7)
    (direction,) = gradients(network, data, [0, 2, 3], seed=1)
    names = ["encoder.layer.1.output.dense.weight", "encoder.layer.0.output.dense.bias"]
    found = direction.parts(names)
    batch = data.batch([0, 2, 3])
    J = jacobians(network, batch)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 8)
    matching = torch.ones(len(signs), dtype=torch.bool)
    for name in names:
        mean = J[name].mean(0).flatten(1)  # [C, D]
        off = signs / 8**0.5 @ mean - found[name].flatten()
        matching &= off.norm(dim=1) < 1e-9
    assert matching.sum() == 1


def linear_network(d_in: int = 3, d_out: int = 2) -> Network:
    module = torch.nn.Linear(d_in, d_out, bias=False, dtype=F64)
    return Network(
        module, OutputMap(NamedConfig("z"), lambda m, b: m(b["x"])), "linear"
    )


def scaled(artifact: Artifact, factor: float) -> Artifact:
    factors = {
        name: Dense(factor * f.to_dense()) if name.endswith(".B") else f
        for name, f in artifact.factors.items()
    }
    return replace(artifact, factors=HeldFactors(factors))


def test_where_kfac_is_exact_there_is_no_error_and_twice_the_scale_is_seen() -> None:
    network = linear_network()
    x = torch.tensor([[1.0, 2.0, -1.0]], dtype=F64)
    artifact = compute(network, TensorExamples({"x": x}, "one"), cotangents=EXACT)
    data = TensorExamples({"x": x.repeat(4, 1)}, "the same four times")
    other = TensorExamples({"x": x.repeat(16, 1)}, "more of the same")
    settings = {"draws": None, "directions": 2, "directions_data": other}
    found = fidelity(artifact, network, data, **settings)
    assert found.total.error == pytest.approx(0, abs=1e-6)
    assert found.total.cosine == pytest.approx(1)
    for directions in found.directions.values():
        for agreement in (directions.agreement, directions.modules):
            assert agreement.ratio == pytest.approx(1)
            assert agreement.spread == pytest.approx(1)
    twice = fidelity(scaled(artifact, 2.0), network, data, **settings)
    assert twice.total.error == pytest.approx(1)
    assert twice.total.best_scale == pytest.approx(0.5)
    assert twice.directions["random"].agreement.ratio == pytest.approx(2)
    assert twice.directions["gradient"].modules.ratio == pytest.approx(2)
    assert twice.total.cosine == pytest.approx(1)


def test_the_estimates_are_unbiased_over_many_samples() -> None:
    """For ``z = W x`` with x ~ N(0, S) the Gramian is the identity times S."""
    network = linear_network()
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=generator, dtype=F64)
    few = torch.randn(4, 3, generator=generator, dtype=F64) @ root.mT
    artifact = compute(network, TensorExamples({"x": few}, "few"), cotangents=EXACT)
    K = dense_block(artifact, next(iter(artifact.blocks)))
    G = torch.kron(torch.eye(2, dtype=F64), root @ root.mT)
    norms, lost = [], []
    for seed in range(150):
        x = torch.randn(8, 3, generator=generator, dtype=F64) @ root.mT
        data = TensorExamples({"x": x}, "many")
        total = fidelity(
            artifact, network, data, seed=seed, directions=0, draws=2
        ).total
        norms.append(total.norm**2)
        lost.append(total.squared_error * total.norm**2)
    for values, expected in ((norms, G.square().sum()), (lost, (G - K).square().sum())):
        found = torch.tensor(values, dtype=F64)
        noise = found.std() / len(found) ** 0.5
        assert noise < 0.2 * expected
        assert (found.mean() - expected).abs() < 3 * noise


def test_random_cotangents_approach_the_unit_vectors(
    artifacts: dict[str, Artifact],
) -> None:
    network, data, artifact = bert(), texts(5, 7), artifacts["kfac"]
    exact = fidelity(artifact, network, data, draws=None, directions=0)
    drawn = fidelity(artifact, network, data, draws=300, directions=0)
    assert drawn.total.norm == pytest.approx(exact.total.norm, rel=0.1)
    assert drawn.total.squared_error == pytest.approx(
        exact.total.squared_error, rel=0.1
    )


@pytest.mark.parametrize("settings", [{"batch_size": 2}, {"memory": 6000}])
def test_neither_batches_nor_memory_change_what_is_found(
    artifacts: dict[str, Artifact], settings: dict[str, int]
) -> None:
    network, data, artifact = bert(), texts(12, 7), artifacts["kfac"]
    one = fidelity(artifact, network, data, count=6, directions=1)
    other = fidelity(artifact, network, data, count=6, directions=1, **settings)
    assert other.total.norm == pytest.approx(one.total.norm)
    assert other.total.squared_error == pytest.approx(one.total.squared_error)
    for a, b in zip(one.modules, other.modules, strict=True):
        for kind in ("random", "gradient"):
            assert a.drifts[kind][0].true == pytest.approx(b.drifts[kind][0].true)


def test_a_module_that_does_not_fit_into_memory_is_refused(
    artifacts: dict[str, Artifact],
) -> None:
    with pytest.raises(SettingsError, match="does not fit"):
        fidelity(artifacts["kfac"], bert(), texts(5, 7), memory=100)


def test_examples_that_the_artifact_was_computed_from_are_left_out() -> None:
    network, data = bert(), texts(12, 1)
    artifact = compute(network, data, count=5)
    found = fidelity(artifact, network, data, count=100, directions=0)
    assert found.held_out.known == 5
    assert found.held_out.data.examples == 7
    assert found.held_out.doubt is None
    seen = set(choose_examples(12, 5, 0))
    left = sorted(set(range(12)) - seen)
    assert found.held_out.data.fingerprint == data.info(left).fingerprint
    with pytest.raises(SettingsError, match="give other data"):
        fidelity(compute(network, data), network, data)


def test_data_of_the_same_name_that_differ_raise_a_doubt(
    artifacts: dict[str, Artifact],
) -> None:
    found = fidelity(artifacts["kfac"], bert(), texts(8, 9, "one"), directions=0)
    assert found.held_out.known == 0
    assert "cannot be told" in found.held_out.doubt


def test_no_cotangent_is_one_of_the_artifact(artifacts: dict[str, Artifact]) -> None:
    found = fidelity(artifacts["kfac"], bert(), texts(5, 7), directions=0)
    seeds = {s.cotangents.seed for s in artifacts["kfac"].provenance.sources}
    assert found.cotangents.seed not in seeds
    assert found.cotangents.name == "mc"  # pairs need independent ones


def test_another_model_and_other_blocks_are_refused(
    artifacts: dict[str, Artifact],
) -> None:
    artifact, data = artifacts["kfac"], texts(5, 7)
    with pytest.raises(MismatchError, match="other values"):
        fidelity(artifact, bert(seed=1), data)
    name, block = next(
        (n, b) for n, b in artifact.blocks.items() if isinstance(b, KroneckerBlock)
    )
    assert block.layout is Layout.COLUMNS
    turned = {**artifact.blocks, name: replace(block, layout=Layout.ROWS)}
    with pytest.raises(CoverageError, match=f"does not have 1 .* {name}"):
        fidelity(replace(artifact, blocks=turned), bert(), data)


@pytest.mark.parametrize("settings", [{"count": 0}, {"draws": 0}, {"directions": -1}])
def test_impossible_numbers_are_refused(
    artifacts: dict[str, Artifact], settings: dict[str, int]
) -> None:
    with pytest.raises(SettingsError, match="at least"):
        fidelity(artifacts["kfac"], bert(), texts(5, 7), **settings)


def test_a_task_vector_counts_as_far_as_it_is_covered(
    artifacts: dict[str, Artifact],
) -> None:
    network, data = bert(), texts(5, 7)
    part = compute(network, texts(6, 1, "one"), only=["encoder.layer.1.*"])
    moved = ["encoder.layer.1.output.dense.bias", "encoder.layer.0.output.dense.bias"]
    tensors = {n: torch.ones(8, dtype=F64) for n in moved}
    vector = TaskVector(tensors, network.base.restrict(set(moved)))
    found = fidelity(part, network, data, directions=0, task_vectors={"t": vector})
    (drift,) = found.directions["task-vector"].total
    true = _moved(network, data.batch(range(5)), {moved[0]: tensors[moved[0]]})
    assert drift.direction == "t"
    assert drift.true == pytest.approx(float(true.square().sum(1).mean()))
    assert [m.name for m in found.modules if m.drifts] == [
        "encoder.layer.1.output.dense"
    ]
    outside = TaskVector(
        {moved[1]: tensors[moved[1]]}, network.base.restrict({moved[1]})
    )
    with pytest.raises(MismatchError, match="covers nothing"):
        fidelity(part, network, data, task_vectors={"t": outside})


def test_the_model_is_left_as_it_was_found(artifacts: dict[str, Artifact]) -> None:
    network = bert()
    network.module.train()
    before = {n: p.clone() for n, p in network.parameters().items()}
    fidelity(artifacts["kfac"], network, texts(12, 7), directions=1)
    assert network.module.training
    for name, parameter in network.parameters().items():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
        assert parameter.grad is None
