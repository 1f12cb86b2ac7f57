"""EK-FAC, against the Gramian by brute force and against curvlinops."""

from typing import Any

import pytest
import torch
from curvlinops import EKFACLinearOperator
from torch import nn

from kfac_artifacts.artifact import (
    Artifact,
    Cotangents,
    EigenBlock,
    KroneckerBlock,
    NamedConfig,
)
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate import Ekfac, Kfac
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.operator import CurvatureOperator
from tests.artifacts import dense_block
from tests.brute_force import EXACT
from tests.computed import compute
from tests.estimate.test_against_curvlinops import _f, _Mapped, _model
from tests.estimate.test_nearest import gramian, tiny


def matrix(artifact: Artifact, name: str) -> Any:
    block = artifact.blocks[name]
    if isinstance(block, KroneckerBlock):
        return dense_block(artifact, name)
    ((whole,),) = block.products(artifact.factors, artifact.parameters)
    return whole.to_dense()


@pytest.mark.parametrize("memory", [10**9, 1])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_s_is_the_diagonal_of_the_gramian_in_the_eigenbasis(
    batch_size: int, memory: int
) -> None:
    network, examples = tiny()
    artifact = compute(
        network,
        examples,
        cotangents=EXACT,
        estimator=Ekfac(shrinkage=False, memory=memory),
        batch_size=batch_size,
    )
    kfac = compute(network, examples, cotangents=EXACT)
    assert {n for n, b in artifact.blocks.items() if isinstance(b, EigenBlock)} == {
        "first",
        "twice",
        "last",
    }
    for name, block in artifact.blocks.items():
        G, _ = gramian(network, examples, kfac.blocks[name])
        if not isinstance(block, EigenBlock):
            torch.testing.assert_close(matrix(artifact, name), matrix(kfac, name))
            continue
        A, B, S = (artifact.factors[factor] for factor in block.factors)
        for ours, theirs in zip((A, B), kfac.blocks[name].factors, strict=True):
            torch.testing.assert_close(
                ours.to_dense(), kfac.factors[theirs].to_dense(), msg=name
            )
        basis = torch.kron(*(factor.fields()["vectors"] for factor in (B, A)))
        wanted = (basis @ G @ basis.mT).diagonal()
        torch.testing.assert_close(S.diagonal(), wanted)
        torch.testing.assert_close(S.diagonal().sum(), G.trace())
        assert (matrix(artifact, name) - G).norm() < (matrix(kfac, name) - G).norm()


@pytest.mark.parametrize("kind", ["mlp", "positions", "bert"])
def test_it_agrees_with_curvlinops(kind: str) -> None:
    """Theirs is of ``Σ (f - y)²``, whose Hessian is 2 I, summed over the data."""
    model, x = _model(kind)
    model, x = model.double(), x.double()
    names = [
        f"{path}.{p}"
        for path, m in model.named_modules()
        if isinstance(m, nn.Linear)
        for p, _ in m.named_parameters()
    ]
    network = Network(model, OutputMap(NamedConfig("f"), _f), kind)
    artifact = compute(
        network,
        TensorExamples({"x": x}, "x"),
        only=tuple(names),
        cotangents=EXACT,
        estimator=Ekfac(shrinkage=False),
    )
    assert all(isinstance(b, EigenBlock) for b in artifact.blocks.values())
    covered = [n for n in artifact.parameters if n in names]
    theirs = _theirs(model, covered, x)
    ours = CurvatureOperator(artifact, dtype=torch.float64)
    tau = {
        n: torch.randn(*artifact.parameters[n], dtype=torch.float64) for n in covered
    }
    found = ours.matvec(tau)
    expected = theirs @ [tau[name] for name in covered]
    for name, each in zip(covered, expected, strict=True):
        torch.testing.assert_close(
            found[name], each / (2 * len(x)), rtol=1e-6, atol=1e-10, msg=name
        )


def _theirs(model: Any, names: Any, x: Any) -> Any:
    parameters = dict(model.named_parameters())
    return EKFACLinearOperator(
        _Mapped(model),
        nn.MSELoss(reduction="sum"),
        [parameters[name] for name in names],
        [(x, torch.zeros_like(_f(model, {"x": x})))],
        fisher_type="type-2",
        separate_weight_and_bias=False,
        check_deterministic=False,
    )


def test_draws_and_unit_vectors_give_the_same_in_the_mean() -> None:
    network, examples = tiny()
    artifact = compute(
        network,
        examples,
        cotangents=Cotangents("orthogonal", 2000, 0),
        estimator=Ekfac(shrinkage=False),
    )
    plain = Ekfac(shrinkage=False)
    exact = compute(network, examples, cotangents=EXACT, estimator=plain)
    for name in ("first", "twice", "last"):
        ours, theirs = matrix(artifact, name), matrix(exact, name)
        assert (ours - theirs).norm() < 0.05 * theirs.norm(), name


def test_one_example_with_one_position_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    f = OutputMap(NamedConfig("f"), lambda module, batch: module(batch["x"]))
    network, x = Network(model, f, "one"), torch.randn(1, 3, dtype=torch.float64)
    examples = TensorExamples({"x": x}, "x")
    artifact = compute(network, examples, cotangents=EXACT, estimator=Ekfac())
    for name in artifact.blocks:
        kfac = compute(network, examples, cotangents=EXACT, estimator=Kfac())
        G, _ = gramian(network, examples, kfac.blocks[name])
        torch.testing.assert_close(matrix(artifact, name), G)


def test_memory_must_be_some() -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        compute(*tiny(), estimator=Ekfac(memory=0))
