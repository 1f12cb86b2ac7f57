"""An artifact as a linear operator, against dense matrices formed by ``torch.kron``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import (
    Artifact,
    Cotangents,
    GramianBlock,
    HeldFactors,
    KroneckerBlock,
    NamedConfig,
)
from kfac_artifacts.errors import FactorError, MismatchError, SettingsError
from kfac_artifacts.factors import Dense, Diagonal
from kfac_artifacts.format import load_artifact
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.operator import CurvatureOperator, Solver
from tests import models
from tests.artifacts import artifact, dense_block, psd, tau, with_factors
from tests.computed import compute

VALID = Path(__file__).parents[1] / "spec/vectors/valid"


def of_tasks(tasks: int) -> Artifact:
    """The toy artifact, as if it had been merged from some tasks."""
    one = artifact()
    return replace(one, provenance=replace(one.provenance, tasks=tasks))


def of_two_terms() -> Artifact:
    """The toy artifact with a second term in every block, unlike the first."""
    one = artifact()
    linear, norm = one.blocks["linear"], one.blocks["norm.weight"]
    blocks = dict(one.blocks) | {
        "linear": replace(linear, terms=(*linear.terms, ("linear.A2", "linear.B2"))),
        "norm.weight": replace(norm, terms=(("norm.weight.G",), ("norm.weight.G2",))),
    }
    factors = dict(one.factors) | {
        "linear.A2": Diagonal(torch.rand(5, dtype=torch.float64)),
        "linear.B2": Dense(psd(3, 100)),
        "norm.weight.G2": Dense(psd(4, 101)),
    }
    return replace(one, blocks=blocks, factors=HeldFactors(factors))


def of_tiny_bert() -> Artifact:
    """The exact curvature of a BERT of two layers, its tables and norms included."""
    network = Network(
        models.tiny_bert(dtype=torch.float64),
        OutputMap(NamedConfig("f"), lambda m, b: m(**b).last_hidden_state.mean(1)),
        "bert",
    )
    ids = torch.randint(4, 20, (3, 4), generator=torch.Generator().manual_seed(0))
    examples = TensorExamples({"input_ids": ids}, "x")
    return compute(network, examples, cotangents=Cotangents("exact", None, 0))


def dense(of: Artifact) -> Tensor:
    """G over the flat parameters, every entry put by hand where it belongs."""
    matrices = []
    for name, block in of.blocks.items():
        K = block.scale(of.provenance.tasks) * dense_block(of, name)
        order = [place for p in block.parameters for place in places(of, block, p)]
        matrices.append(K[order][:, order])
    return torch.block_diag(*matrices)


def places(of: Artifact, block: GramianBlock | KroneckerBlock, parameter: str) -> Any:
    """Where in ``vec W`` each entry of a parameter is, in the order of its rows."""
    shape = of.parameters[parameter]
    if isinstance(block, GramianBlock):
        return range(shape[0])
    d_out, d_in = block.layout.dims(of.parameters[block.weight])
    width = d_in + (block.bias is not None)
    if parameter == block.bias:
        return [o * width + d_in for o in range(d_out)]
    if block.layout == "rows":
        return [o * width + i for o in range(d_out) for i in range(d_in)]
    return [o * width + i for i in range(d_in) for o in range(d_out)]


MADE = {
    "one": artifact,
    "three tasks": lambda: of_tasks(3),
    "two terms": of_two_terms,
    "bert": of_tiny_bert,
}


@pytest.fixture(scope="module", params=MADE)
def any_artifact(request: pytest.FixtureRequest) -> Artifact:
    return MADE[request.param]()


@pytest.fixture(scope="module", params=["one", "three tasks", "bert"])
def of_single_terms(request: pytest.FixtureRequest) -> Artifact:
    return MADE[request.param]()


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


def vectors(size: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, count, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_products_are_those_of_the_dense_matrix_in_every_form(
    any_artifact: Artifact, damping: float
) -> None:
    G = dense(any_artifact)
    G = G + damping * torch.eye(len(G), dtype=G.dtype)
    operator = CurvatureOperator(any_artifact, damping=damping)
    X = vectors(len(G))
    assert operator.shape == G.shape
    close(operator @ X, G @ X)
    close(operator.matvec(X[:, 0]), G @ X[:, 0])
    named = operator.matvec(operator.split(X[:, 1]))
    assert {n: tuple(t.shape) for n, t in named.items()} == operator.parameters
    close(operator.join(named), G @ X[:, 1])


def test_its_quadratic_form_is_the_drift(any_artifact: Artifact) -> None:
    operator = CurvatureOperator(any_artifact)
    x = operator.split(vectors(operator.shape[0])[:, 0])
    product = operator @ x
    form = sum((x[name] * product[name]).sum() for name in x)
    close(form, any_artifact.drift(x))


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_trace_diagonal_and_norm_are_exact(
    any_artifact: Artifact, damping: float
) -> None:
    G = dense(any_artifact)
    G = G + damping * torch.eye(len(G), dtype=G.dtype)
    operator = CurvatureOperator(any_artifact, damping=damping)
    close(operator.diagonal(), G.diagonal())
    close(operator.trace(), G.trace())
    close(operator.frobenius_norm(), G.norm())


def test_eigenvalues_and_determinant_come_from_the_factors(
    of_single_terms: Artifact,
) -> None:
    G = dense(of_single_terms)
    operator = CurvatureOperator(of_single_terms)
    close(operator.eigenvalues(), torch.linalg.eigvalsh(G))
    damped = G + 0.3 * torch.eye(len(G), dtype=G.dtype)
    close(operator.logdet(0.3), torch.logdet(damped))
    shifted = CurvatureOperator(of_single_terms, damping=0.1)
    close(shifted.logdet(0.2), torch.logdet(damped))


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.5])
def test_powers_are_those_of_the_damped_matrix(
    of_single_terms: Artifact, exponent: float
) -> None:
    G = dense(of_single_terms)
    values, Q = torch.linalg.eigh(G + 0.3 * torch.eye(len(G), dtype=G.dtype))
    expected = Q @ torch.diag(values.pow(exponent)) @ Q.mT
    power = CurvatureOperator(of_single_terms).power(exponent, 0.3)
    X = vectors(len(G))
    close(power @ X, expected @ X)
    close(power.diagonal(), expected.diagonal())
    close(power.trace(), expected.trace())
    close(power.frobenius_norm(), expected.norm())
    close(power.eigenvalues(), torch.linalg.eigvalsh(expected))


def test_the_inverse_of_the_inverse_is_the_damped_operator() -> None:
    operator = CurvatureOperator(artifact())
    twice = operator.inverse(0.2).inverse()
    X = vectors(operator.shape[0])
    close(twice @ X, operator @ X + 0.2 * X)


def test_several_terms_are_inverted_by_conjugate_gradients() -> None:
    two = of_two_terms()
    G = dense(two)
    damped = G + 0.1 * torch.eye(len(G), dtype=G.dtype)
    X = vectors(len(G))
    X[:, 2] = 0
    # 15 unknowns: as many steps would do without rounding; steepest descent needs more
    solver = Solver(tolerance=1e-10, iterations=20)
    inverse = CurvatureOperator(two, damping=0.04).inverse(0.06, solver=solver)
    close(inverse @ X, torch.linalg.solve(damped, X))
    default = CurvatureOperator(two).inverse(0.1) @ X
    residual = (damped @ default - X).norm() / X.norm()
    assert residual < 1e-7


def test_conjugate_gradients_that_do_not_converge_are_reported() -> None:
    inverse = CurvatureOperator(of_two_terms()).inverse(
        1e-3, solver=Solver(tolerance=1e-12, iterations=3)
    )
    with pytest.raises(
        FactorError, match="linear: conjugate gradients stopped after 3"
    ):
        inverse @ vectors(inverse.shape[0])


REFUSED = {
    "eigenvalues": lambda o: o.eigenvalues(),
    "determinant": lambda o: o.logdet(0.1),
    "square root": lambda o: o.power(0.5, 0.1),
    "trace of the inverse": lambda o: o.inverse(0.1).trace(),
    "norm of the inverse": lambda o: o.inverse(0.1).frobenius_norm(),
    "eigenvalues of the inverse": lambda o: o.inverse(0.1).eigenvalues(),
    "inverse of the inverse": lambda o: o.inverse(0.1).inverse(),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_several_terms_do_not_give_is_refused_by_name(what: str) -> None:
    with pytest.raises(FactorError, match="linear"):
        REFUSED[what](CurvatureOperator(of_two_terms()))


def test_a_table_is_never_made_dense() -> None:
    rows = 200_000  # 40 billion entries if it were
    one = artifact()
    table = one.blocks["table"]
    base = one.provenance.base
    shape = replace(base.parameters["table.weight"], shape=(rows, 4))
    base = replace(base, parameters={"table.weight": shape})
    big = replace(
        one,
        provenance=replace(one.provenance, base=base),
        blocks={"table": table},
        factors=HeldFactors(
            {
                "table.A": Diagonal(torch.rand(rows, dtype=torch.float64)),
                "table.B": one.factors["table.B"],
            }
        ),
    )
    operator = CurvatureOperator(big)
    x = vectors(rows * 4, 1)[:, 0]
    close(operator.inverse(0.1) @ (operator @ x + 0.1 * x), x)
    assert operator.eigenvalues().shape == (rows * 4,)
    close(operator.frobenius_norm() ** 2, operator.eigenvalues().square().sum())


def test_a_singular_operator_is_inverted_only_with_damping() -> None:
    one = artifact()
    thin = torch.randn(5, 2, dtype=torch.float64)
    low_rank = with_factors(one, {"linear.A": Dense(thin @ thin.mT)})
    operator = CurvatureOperator(low_rank)
    assert (operator.eigenvalues() == 0).sum() == 3 * 3  # not some rounding error
    with pytest.raises(FactorError, match=r"linear is not positive definite.* damping"):
        operator.inverse()
    with pytest.raises(FactorError, match="linear is not positive definite"):
        operator.logdet()
    G = dense(low_rank)
    X = vectors(len(G))
    damped = G + 1e-3 * torch.eye(len(G), dtype=G.dtype)
    close(operator.inverse(1e-3) @ X, torch.linalg.solve(damped, X))


def test_an_indefinite_operator_says_how_much_damping_is_missing() -> None:
    one = artifact()
    matrix = one.factors["norm.weight.G"].to_dense()
    shifted = matrix - 2 * torch.eye(4, dtype=torch.float64)
    worst = -torch.linalg.eigvalsh(shifted)[0].item()
    bad = with_factors(one, {"norm.weight.G": Dense(shifted)})
    with pytest.raises(FactorError, match=f"above {worst:.3g}"):
        CurvatureOperator(bad).inverse()
    CurvatureOperator(bad).inverse(worst + 0.1)


def test_it_computes_in_the_wider_type_of_float32_and_its_factors() -> None:
    half = CurvatureOperator(artifact(dtype=torch.float16))
    assert (half.torch_dtype, half.dtype) == (torch.float32, np.dtype("float32"))
    double = CurvatureOperator(artifact())
    assert (double.torch_dtype, double.dtype) == (torch.float64, np.dtype("float64"))
    single = CurvatureOperator(artifact(), dtype=torch.float32)
    x = vectors(single.shape[0]).float()
    assert (single @ x).dtype == torch.float32
    exact = CurvatureOperator(artifact()) @ x
    torch.testing.assert_close((single @ x).double(), exact, rtol=1e-5, atol=1e-5)


def test_it_refuses_what_does_not_fit() -> None:
    operator = CurvatureOperator(artifact())
    x = tau()
    del x["linear.bias"]
    with pytest.raises(MismatchError, match=r"no linear\.bias"):
        operator @ x
    with pytest.raises(MismatchError, match=r"norm\.weight has shape \[5\]"):
        operator @ (tau() | {"norm.weight": torch.zeros(5)})
    with pytest.raises(MismatchError, match=r"shape \[3\]"):
        operator @ torch.zeros(3)
    with pytest.raises(SettingsError, match="damping"):
        CurvatureOperator(artifact(), damping=-1.0)
    with pytest.raises(SettingsError, match="damping"):
        operator.inverse(-1.0)
    with pytest.raises(SettingsError, match="float16"):
        CurvatureOperator(artifact(), dtype=torch.float16)


def test_a_factor_that_blocks_share_is_decomposed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_bert = of_tiny_bert()
    terms = [b.terms[0] for b in of_bert.blocks.values() if type(b) is KroneckerBlock]
    dense_ones = {n for n, f in of_bert.factors.items() if isinstance(f, Dense)}
    assert len({a for a, _ in terms}) < len(terms)
    calls = []
    eigh = torch.linalg.eigh

    def counted(M: Tensor) -> Any:
        calls.append(1)
        return eigh(M)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    CurvatureOperator(of_bert).inverse(0.1)
    assert len(calls) == len(dense_ones)


def test_parts_of_stacked_parameters_have_their_places() -> None:
    """Every entry of G by polarisation: ``4 x'Gy = drift(x + y) - drift(x - y)``."""
    of = load_artifact(VALID / "stacked")
    operator = CurvatureOperator(of, dtype=torch.float64)
    size = operator.shape[0]
    assert size == sum(np.prod(shape) for shape in of.parameters.values())
    eye = torch.eye(size, dtype=torch.float64)
    wide = replace(
        of,
        factors=HeldFactors(
            {n: f.to(dtype=torch.float64) for n, f in of.factors.items()}
        ),
    )

    def drift(x: Any) -> Any:
        return float(wide.drift(operator.split(x)))

    G = torch.tensor([[(drift(x + y) - drift(x - y)) / 4 for y in eye] for x in eye])
    close(operator @ eye, G.to(torch.float64))
    close(operator.diagonal(), G.diagonal().to(torch.float64))
    inverse = operator.inverse(damping=0.5)
    close(inverse @ (operator @ eye + 0.5 * eye), eye)
