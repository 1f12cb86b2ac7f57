"""The operator in the hands of SciPy and curvlinops, against exact values."""

import sys
from typing import Any

import curvlinops
import numpy as np
import pytest
import torch
from curvlinops import (
    CGInverseLinearOperator,
    KFACInverseLinearOperator,
    KFACLinearOperator,
)
from scipy.sparse.linalg import aslinearoperator, cg, eigsh, lobpcg, lsqr, svds
from torch import Tensor, nn

from kfac_artifacts.artifact import Cotangents, NamedConfig
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.operator import CurvatureOperator
from tests.artifacts import artifact
from tests.computed import compute


@pytest.fixture
def operator() -> CurvatureOperator:
    return CurvatureOperator(artifact())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def close(actual: Any, expected: Tensor, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual), torch.as_tensor(expected), rtol=rtol, atol=1e-8
    )


def test_scipy_finds_its_largest_eigenvalues(operator: CurvatureOperator) -> None:
    found = eigsh(operator.to_scipy(), k=4, return_eigenvectors=False)
    close(np.sort(found), operator.eigenvalues()[-4:])


def test_scipy_accepts_the_operator_itself(operator: CurvatureOperator) -> None:
    """As the README says: no wrapping, and arrays of NumPy come back."""
    largest = operator.eigenvalues()[-4:]
    close(np.sort(eigsh(operator, k=4, return_eigenvectors=False)), largest)
    close(np.sort(svds(operator, k=4, return_singular_vectors=False)), largest)
    X = np.random.default_rng(0).standard_normal((operator.shape[0], 4))
    found = lobpcg(aslinearoperator(operator), X, tol=1e-9, maxiter=200)[0]
    close(np.sort(found), largest, rtol=1e-6)
    damped = CurvatureOperator(artifact(), damping=0.1)
    b = X[:, 0]
    wanted = damped.inverse() @ torch.from_numpy(b)
    close(cg(damped, b, rtol=1e-12)[0], wanted)
    least = lsqr(damped, b, atol=0, btol=0, conlim=0, iter_lim=1000)[0]  # to the end
    close(least, wanted, rtol=1e-6)
    assert isinstance(damped @ X, np.ndarray)
    close(damped.rmatvec(b), damped.matvec(torch.from_numpy(b)))


def test_scipy_solves_with_it_as_its_inverse_does(operator: CurvatureOperator) -> None:
    b = np.random.default_rng(0).standard_normal(operator.shape[0])
    damped = CurvatureOperator(artifact(), damping=0.1)
    x, failed = cg(damped.to_scipy(), b, rtol=1e-12)
    assert failed == 0
    close(x, damped.inverse() @ torch.from_numpy(b))


def test_scipy_gets_the_operators_number_type_and_both_shapes() -> None:
    single = CurvatureOperator(artifact(), dtype=torch.float32)
    wrapped = single.to_scipy()
    assert wrapped.dtype == np.float32
    X = np.random.default_rng(0).standard_normal((single.shape[0], 2))
    X.flags.writeable = False
    assert (wrapped @ X).dtype == np.float32
    expected = CurvatureOperator(artifact()) @ torch.tensor(X)
    close(torch.as_tensor(wrapped @ X).double(), expected, rtol=1e-4)
    close(torch.as_tensor(wrapped.T @ X[:, 0]).double(), expected[:, 0], rtol=1e-4)


def test_curvlinops_multiplies_lists_of_parameters(operator: CurvatureOperator) -> None:
    theirs = operator.to_curvlinops()
    x = torch.randn(operator.shape[0], 2, dtype=torch.float64)
    close(theirs @ x, operator @ x)
    parts = theirs @ list(operator.split(x).values())
    for part, expected in zip(
        parts, operator.split(operator @ x).values(), strict=True
    ):
        close(part, expected)
    close((theirs @ list(operator.split(x[:, 0]).values()))[0], parts[0][..., 0])


def test_curvlinops_arithmetic_accepts_it(operator: CurvatureOperator) -> None:
    theirs = operator.to_curvlinops()
    x = torch.randn(operator.shape[0], dtype=torch.float64)
    close((theirs + 2.0 * theirs) @ x, 3 * (operator @ x))
    close((theirs @ theirs) @ x, operator @ (operator @ x))
    close((theirs @ theirs).adjoint() @ x, operator @ (operator @ x))
    close(torch.as_tensor(theirs.to_scipy() @ x.numpy()), operator @ x)


@pytest.mark.parametrize("estimator", ["hutchinson_trace", "hutchpp_trace", "xtrace"])
def test_curvlinops_estimates_its_trace(
    operator: CurvatureOperator, estimator: str
) -> None:
    estimate = getattr(curvlinops, estimator)
    theirs = operator.to_curvlinops()
    found = [estimate(theirs, num_matvecs=12) for _ in range(100)]
    assert torch.stack(found).mean() == pytest.approx(operator.trace().item(), rel=0.03)


def test_curvlinops_estimates_its_diagonal_and_norm(
    operator: CurvatureOperator,
) -> None:
    theirs = operator.to_curvlinops()
    norms = [curvlinops.hutchinson_squared_fro(theirs, 12) for _ in range(300)]
    expected = operator.frobenius_norm().square().item()
    assert torch.stack(norms).mean() == pytest.approx(expected, rel=0.05)
    diagonals = [curvlinops.hutchinson_diag(theirs, 12) for _ in range(300)]
    error = torch.stack(diagonals).mean(0) - operator.diagonal()
    assert error.norm() < 0.05 * operator.diagonal().norm()


def test_curvlinops_estimates_its_spectral_density(operator: CurvatureOperator) -> None:
    values = operator.eigenvalues()
    ends = (values[0].item(), values[-1].item())
    grid, density = curvlinops.lanczos_approximate_spectrum(
        operator.to_curvlinops(),
        ncv=20,
        num_points=2000,
        num_repeats=20,
        boundaries=ends,
    )
    grid, density = torch.as_tensor(grid), torch.as_tensor(density)
    mass = torch.trapezoid(density, grid)
    mean = torch.trapezoid(density * grid, grid) / mass
    assert mass == pytest.approx(1, rel=0.1)
    assert mean == pytest.approx(values.mean().item(), rel=0.1)


def test_curvlinops_inverts_it_as_its_own_inverse_does() -> None:
    damped = CurvatureOperator(artifact(), damping=0.1)
    inverse = CGInverseLinearOperator(
        damped.to_curvlinops(), tolerance=1e-8, eps=1e-20, stop_updating_after=1e-14
    )
    x = torch.randn(damped.shape[0], dtype=torch.float64)
    exact = damped.inverse() @ x
    assert (inverse @ x - exact).norm() < 1e-7 * exact.norm()


@pytest.fixture(scope="module")
def pair() -> tuple[CurvatureOperator, Any, int]:
    """Our operator of an MLP, and curvlinops' KFAC of it; theirs is 2 n times ours."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4, bias=False), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(4, 3)).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    network = Network(model, OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "mlp")
    exact = Cotangents("exact", None, 0)
    ours = CurvatureOperator(
        compute(network, TensorExamples({"x": x}, "x"), cotangents=exact)
    )
    by_name = dict(model.named_parameters())
    theirs = KFACLinearOperator(
        model,
        nn.MSELoss(reduction="sum"),
        [by_name[name] for name in ours.parameters],
        [(x, torch.zeros(7, 3, dtype=torch.float64))],
        fisher_type="type-2",
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    return ours, theirs, 2 * 7


def test_it_is_curvlinops_kfac_up_to_the_convention_of_its_loss(
    pair: tuple[CurvatureOperator, Any, int],
) -> None:
    ours, theirs, factor = pair
    x = torch.randn(ours.shape[0], 2, dtype=torch.float64)
    close(factor * (ours @ x), theirs @ x)
    close((factor * ours.to_curvlinops()) @ x, theirs @ x)
    close(factor * ours.trace(), theirs.trace)
    close(factor * ours.frobenius_norm(), theirs.frobenius_norm)
    size = ours.shape[0]
    damped = factor * ours.matvec(torch.eye(size, dtype=torch.float64))
    damped += 0.1 * torch.eye(size, dtype=torch.float64)
    logdet = ours.logdet(0.1 / factor) + size * np.log(factor)
    close(logdet, torch.logdet(damped))


def test_its_damped_inverse_is_that_of_curvlinops(
    pair: tuple[CurvatureOperator, Any, int],
) -> None:
    ours, theirs, factor = pair
    inverse = KFACInverseLinearOperator(theirs, damping=0.1, use_exact_damping=True)
    x = torch.randn(ours.shape[0], 2, dtype=torch.float64)
    close((ours.inverse(0.1 / factor) @ x) / factor, inverse @ x)


def test_without_curvlinops_it_says_what_to_install(
    operator: CurvatureOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops._torch_base", None)
    with pytest.raises(SettingsError, match=r"pip install 'kfac-artifacts\[curvlinops"):
        operator.to_curvlinops()
