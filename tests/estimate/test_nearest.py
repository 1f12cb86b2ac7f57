"""Nearest Kronecker products, against the rearranged Gramian by brute force."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.artifact import Cotangents, KroneckerBlock, NamedConfig
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate import KfacReduce, Nearest, choose_estimator
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests.brute_force import EXACT, jacobians
from tests.computed import compute

PLAIN = Nearest(shrinkage=False, max_sweeps=60)
F64 = torch.float64


class Tiny(nn.Module):
    """Tokens through a table, a shared and a plain linear map, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4, padding_idx=0)
        self.first = nn.Linear(4, 3)
        self.twice = nn.Linear(3, 3)
        self.last = nn.Linear(3, 2, bias=False)

    def forward(self, ids: Any) -> Any:
        x = torch.tanh(self.first(self.table(ids)))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.last(x)


def pooled(module: nn.Module, batch: Any) -> Any:
    mask = batch["attention_mask"][..., None].to(F64)
    return (module(batch["ids"]) * mask).sum(1) / mask.sum(1)


def tiny(count: int = 7, positions: int = 5) -> Any:
    torch.manual_seed(0)
    network = Network(Tiny().double(), OutputMap(NamedConfig("f"), pooled), "tiny")
    ids = torch.randint(1, 6, (count, positions))
    mask = torch.ones_like(ids)
    mask[0, 3:] = mask[2, 1:] = 0
    batch = {"ids": ids * mask, "attention_mask": mask}
    return network, TensorExamples(batch, "tiny")


def gramian(network: Network, examples: Any, block: Any) -> Any:
    """The block of G over ``vec W`` with rows flattened."""
    J = jacobians(network, examples.batch(range(len(examples))))
    weight = J[block.weight]
    W = torch.stack([block.layout.as_matrix(w) for w in weight.flatten(0, 1)])
    if block.bias is not None:
        W = torch.cat([W, J[block.bias].reshape(len(W), -1, 1)], dim=2)
    flat = W.flatten(1)
    return flat.mT @ flat / len(weight), W.shape[1:]


def rearranged(G: Any, d_out: Any, d_in: Any, *, diagonal: bool = False) -> Any:
    """Van Loan & Pitsianis: rows are the entries of B, columns those of A.

    Of pairs of antisymmetric matrices, which may be among the best too, none is wanted.
    """
    R = G.reshape(d_out, d_in, d_out, d_in).permute(0, 2, 1, 3)
    R = (R + R.transpose(0, 1)) / 2
    if diagonal:
        return R.diagonal(dim1=2, dim2=3).reshape(d_out**2, d_in)
    return ((R + R.transpose(2, 3)) / 2).reshape(d_out**2, d_in**2)


def dense(artifact: Any, block: Any) -> Any:
    return sum(
        torch.kron(artifact.factors[b].to_dense(), artifact.factors[a].to_dense())
        for a, b in block.terms
    )


def kroneckers(artifact: Any) -> Any:
    return {n: b for n, b in artifact.blocks.items() if isinstance(b, KroneckerBlock)}


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("memory", [2**30, 3000, 1])
def test_terms_are_the_best_ones_by_singular_values(terms: Any, memory: Any) -> None:
    """However little may be kept: all at once, in groups, or nothing at all."""
    network, examples = tiny()
    estimator = Nearest(terms, shrinkage=False, max_sweeps=200, memory=memory)
    artifact = compute(network, examples, cotangents=EXACT, estimator=estimator)
    blocks = kroneckers(artifact)
    assert set(blocks) == {"table", "first", "twice", "last"}
    for name, block in blocks.items():
        G, (d_out, d_in) = gramian(network, examples, block)
        R = rearranged(G, d_out, d_in, diagonal=name == "table")
        unreached = G.norm() ** 2 - R.norm() ** 2
        best = torch.linalg.svdvals(R)[terms:].pow(2).sum().add(unreached).sqrt()
        error = (dense(artifact, block) - G).norm()
        assert error <= best * 1.02 + 1e-9 * G.norm(), name
        # a difference of squares is below rounding where the block is a product
        assert error >= best * (1 - 1e-9) - 1e-7 * G.norm(), name


@pytest.mark.parametrize("sweeps", [1, 2, 10])
def test_nearest_is_never_farther_than_kfac_on_its_own_data(sweeps: Any) -> None:
    network, examples = tiny()
    plain = Nearest(shrinkage=False, max_sweeps=sweeps)
    near = compute(network, examples, cotangents=EXACT, estimator=plain)
    kfac = compute(network, examples, cotangents=EXACT)
    for name, block in kroneckers(near).items():
        G, _ = gramian(network, examples, block)
        error = (dense(near, block) - G).norm()
        assert error <= (dense(kfac, kfac.blocks[name]) - G).norm() * (1 + 1e-9), name


@pytest.mark.parametrize("shrinkage", [True, False])
def test_both_factors_stay_semidefinite_and_the_trace_of_a_is_that_of_kfac(
    shrinkage: Any,
) -> None:
    network, examples = tiny()
    estimator = Nearest(shrinkage=shrinkage)
    near = compute(network, examples, estimator=estimator)
    kfac = compute(network, examples)
    for name, block in kroneckers(near).items():
        ((a, b),) = block.terms
        ((start, _),) = kfac.blocks[name].terms
        for factor in (near.factors[a], near.factors[b]):
            values = torch.linalg.eigvalsh(factor.to_dense())
            assert values.min() >= -1e-9 * values.max()
        trace = kfac.factors[start].diagonal().sum()
        torch.testing.assert_close(near.factors[a].diagonal().sum(), trace)


def test_one_example_with_one_position_is_its_own_nearest_product() -> None:
    network, _ = tiny()
    batch = {"ids": torch.tensor([[3]]), "attention_mask": torch.tensor([[1]])}
    examples = TensorExamples(batch, "one")
    artifact = compute(
        network, examples, cotangents=EXACT, estimator=PLAIN, exclude=("twice.*",)
    )
    for block in kroneckers(artifact).values():
        G, _ = gramian(network, examples, block)
        torch.testing.assert_close(dense(artifact, block), G)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("shrinkage", [True, False])
def test_the_batch_size_changes_nothing(batch_size: Any, shrinkage: Any) -> None:
    network, examples = tiny()
    estimator = Nearest(terms=2, shrinkage=shrinkage)
    draws = Cotangents("orthogonal", 2, 3)
    whole = compute(network, examples, cotangents=draws, estimator=estimator)
    parts = compute(
        network,
        examples,
        cotangents=draws,
        estimator=estimator,
        batch_size=batch_size,
    )
    assert parts.provenance == whole.provenance
    for name, block in whole.blocks.items():
        if isinstance(block, KroneckerBlock):
            torch.testing.assert_close(
                dense(parts, parts.blocks[name]), dense(whole, block)
            )


def kronecker_problem(count: int, seed: int) -> Any:
    """A linear map whose Gramian *is* ``B ⊗ A``: independent inputs and Jacobians."""
    generator = torch.Generator().manual_seed(seed)
    roots = torch.Generator().manual_seed(99)
    root_a = torch.randn(6, 6, generator=roots, dtype=F64)
    root_b = torch.randn(5, 4, generator=roots, dtype=F64)
    x = torch.randn(count, 6, generator=generator, dtype=F64) @ root_a
    z = torch.randn(count, 5, 4, generator=generator, dtype=F64) * root_b
    module = nn.Linear(6, 4, bias=False, dtype=F64)

    def f(m: Any, batch: Any) -> Any:
        return torch.einsum("nco,no->nc", batch["z"], m(batch["x"]))

    truth = torch.kron(torch.diag(root_b.pow(2).sum(0)), root_a.mT @ root_a)
    network = Network(module, OutputMap(NamedConfig("f"), f), "linear")
    return network, TensorExamples({"x": x, "z": z}, "drawn"), truth


def mean_error(estimator: Any, count: int = 16, seeds: int = 20) -> Any:
    total = 0.0
    for seed in range(seeds):
        network, examples, truth = kronecker_problem(count, seed)
        artifact = compute(network, examples, estimator=estimator)
        (block,) = artifact.blocks.values()
        total += float(((dense(artifact, block) - truth).norm() / truth.norm()) ** 2)
    return math.sqrt(total / seeds)


def test_shrinkage_lowers_the_error_against_the_truth_behind_few_examples() -> None:
    guarded = mean_error(Nearest())
    assert guarded < 0.9 * mean_error(Nearest(shrinkage=False))


def test_shrinkage_does_no_harm_with_many_examples() -> None:
    guarded = mean_error(Nearest(), count=4000, seeds=2)
    plain = mean_error(Nearest(shrinkage=False), count=4000, seeds=2)
    assert guarded < mean_error(Nearest()) / 2
    assert guarded < plain * 1.05


def test_sweeps_and_settings_are_reported() -> None:
    network, examples = tiny()
    artifact = compute(network, examples, estimator=Nearest(terms=2))
    assert artifact.provenance.estimator.name == "nearest"
    told = artifact.provenance.estimator.configuration
    assert told["terms"] == 2
    assert told["shrinkage"] is True
    assert 1 <= told["sweeps"] <= 6


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Nearest(terms=0), "at least 1"),
        (Nearest(max_sweeps=0), "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(estimator: Any, message: Any) -> None:
    network, examples = tiny()
    with pytest.raises(SettingsError, match=message):
        compute(network, examples, estimator=estimator)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("guess", {}, "choose from"),
        ("kfac", {"terms": 2}, "terms does not go with kfac, but with nearest"),
        ("nearest", {"step": 2}, "step does not go with nearest, but with none"),
    ],
)
def test_names_and_options_that_do_not_go_together_are_refused(
    name: str, options: Any, message: Any
) -> None:
    with pytest.raises(SettingsError, match=message):
        choose_estimator(name, **options)


def test_too_few_examples_to_spread_are_refused_with_a_way_out() -> None:
    network, examples = tiny()
    with pytest.raises(SettingsError, match="at least 4"):
        compute(network, examples, count=3, estimator=Nearest())
    compute(network, examples, count=3, estimator=Nearest(shrinkage=False))


def test_a_block_without_curvature_stays_zero() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.live = nn.Linear(3, 2)
            self.small = nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            return self.live(x) + 0 * self.small(x[:, :3]) * (x[:, :1] > 9)

    torch.manual_seed(0)
    network = Network(
        Dead().double(), OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "dead"
    )
    x = torch.randn(8, 3, dtype=F64)
    artifact = compute(network, TensorExamples({"x": x}, "x"), estimator=Nearest())
    for factor in artifact.factors.values():
        assert factor.to_dense().isfinite().all()


class _Reduced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.outer = nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.outer(torch.tanh(self.inner(x)))


def test_kfac_reduce_equals_its_definition() -> None:
    """ā is the mean over real positions, ĝ the sum; both by hand."""
    torch.manual_seed(0)
    module = _Reduced().double()
    x = torch.randn(5, 6, 3, dtype=F64)
    mask = torch.ones(5, 6, dtype=torch.long)
    mask[1, 2:] = mask[3, 5:] = 0

    def f(m: Any, batch: Any) -> Any:
        real = batch["attention_mask"][..., None].to(F64)
        return (m(batch["x"]) * real).sum(1)

    network = Network(module, OutputMap(NamedConfig("f"), f), "reduced")
    batch = {"x": x, "attention_mask": mask}
    artifact = compute(
        network,
        TensorExamples(batch, "x"),
        cotangents=EXACT,
        estimator=KfacReduce(),
        batch_size=2,
    )
    hidden = torch.tanh(module.inner(x)).detach()
    real = mask[..., None].to(F64)
    for name, a, J in (
        ("outer", hidden, real.sum(1)[..., None] * torch.eye(2, dtype=F64)),
        (
            "inner",
            x,
            torch.einsum(
                "oh,nph,np->noh",
                module.outer.weight.detach(),
                1 - hidden**2,
                mask.to(F64),
            ),
        ),
    ):
        mean = (a * real).sum(1) / real.sum(1)
        mean = torch.cat([mean, torch.ones(5, 1, dtype=F64)], dim=1)
        ((A, B),) = artifact.blocks[name].terms
        torch.testing.assert_close(artifact.factors[A].to_dense(), mean.mT @ mean / 5)
        torch.testing.assert_close(
            artifact.factors[B].to_dense(), torch.einsum("nco,ncp->op", J, J) / 5
        )
