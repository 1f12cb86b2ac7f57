"""For what factors are fit: every measure against its definition, by brute force."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import Loss
from kfac_artifacts.compress import Recipe, compress, save_artifact
from kfac_artifacts.compress.compress_factor import compress_factor
from kfac_artifacts.compress.factor_fitness import fitness
from kfac_artifacts.factors import BlockDiagonal, Dense, Diagonal, Factor, LowRank
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from tests.artifacts import covariance, plain, rich
from tests.compress.small import on_disk, original

RECIPES = ["int8", "low-rank-4", "svd-6", "block-3+int8", "block-2-correlated"]
RECIPES += ["prune-20%", "diagonal"]


def decaying(dim: int = 12, seed: int = 0) -> Tensor:
    """A matrix with eigenvalues from 1 to 1e-5, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(dim, dim, generator=generator).double())[0]
    return (Q * torch.logspace(0, -5, dim, dtype=torch.float64)) @ Q.mT


def by_definition(found: Factor, exact: Factor) -> tuple[float, float, float]:
    M, M0 = found.to_dense().double(), exact.to_dense().double()
    damped = 0.01 * M0.trace() / len(M0) * torch.eye(len(M0), dtype=torch.float64)
    inverse = torch.linalg.inv(M0 + damped)
    lost = (torch.linalg.inv(M + damped) - inverse).norm() / inverse.norm()
    values, V = torch.linalg.eigh(M0)
    k = int((values < damped[0, 0]).sum())
    U = torch.linalg.eigh(M)[1]
    overlap = (V[:, :k] @ V[:, :k].mT @ U[:, :k] @ U[:, :k].mT).norm() ** 2 / k
    about = (M.diagonal() - M0.diagonal()).norm() / M0.diagonal().norm()
    return float(lost), float(overlap), float(about)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_measures_are_those_of_the_definition(name: str, seed: int) -> None:
    start = original(decaying(seed=seed))
    made = compress_factor(start, Recipe.parse(name), fitness=True)
    assert made.loss is not None
    inverse, overlap, about = by_definition(made.factor, start.factor)
    assert made.loss.inverse_error == pytest.approx(inverse, rel=1e-6)
    assert made.loss.diagonal_error == pytest.approx(about, rel=1e-6, abs=1e-7)
    if not name.startswith("svd"):  # there the null space has no order
        assert made.loss.null_overlap == pytest.approx(overlap, rel=1e-6)


def test_what_is_the_same_is_fit_for_everything() -> None:
    exact = Dense(decaying())
    same = fitness(exact, exact)
    assert same.inverse_error == pytest.approx(0, abs=1e-12)
    assert same.null_overlap == pytest.approx(1, abs=1e-12)
    assert same.null_overlap is not None
    assert same.null_overlap <= 1
    assert same.diagonal_error == 0


def test_of_equal_eigenvalues_the_mean_over_all_choices_counts() -> None:
    exact = Diagonal(torch.tensor([1.0, 1e-6, 1.0, 1.0]))
    low_rank = LowRank(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([1.0]))
    for found in (low_rank, Diagonal(torch.tensor([0.0, 0.0, 0.0, 1.0]))):
        assert fitness(found, exact).null_overlap == pytest.approx(1 / 3)


@pytest.mark.parametrize("permuted", [False, True])
def test_structure_changes_nothing_but_the_time(permuted: bool) -> None:
    exact = Dense(decaying(7))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4], dtype=torch.int32)
    blocks = BlockDiagonal.of_dense(
        exact.to_dense(), [3, 2, 2], order if permuted else None
    )
    sparse, dense = fitness(blocks, exact), fitness(Dense(blocks.to_dense()), exact)
    assert vars(sparse) == pytest.approx(vars(dense), rel=1e-8)
    ends = Diagonal(torch.tensor([1.0, 0, 2, 3, 1e-5, 1, 1]))
    other = Diagonal(ends.diagonal() + torch.rand(7))
    both = fitness(other, ends), fitness(Dense(other.to_dense()), ends)
    assert vars(both[0]) == pytest.approx(vars(both[1]), rel=1e-8)


def test_zero_has_no_error_and_no_null_space() -> None:
    zero = fitness(Diagonal(torch.zeros(3)), Dense(torch.zeros(3, 3)))
    assert vars(zero) == {
        "inverse_error": 0,
        "null_overlap": None,
        "diagonal_error": 0,
    }


def test_where_no_eigenvalue_is_small_there_is_no_null_space() -> None:
    found = fitness(Dense(1.1 * torch.eye(3)), Dense(torch.eye(3)))
    assert found.null_overlap is None
    assert found.inverse_error == pytest.approx(0.1 / 1.11, rel=1e-6)


@pytest.mark.parametrize("diagonal", [False, True])
def test_what_is_indefinite_has_no_damped_inverse(diagonal: bool) -> None:
    matrix = torch.diag(torch.tensor([1.0, -0.5, 1.0]))
    factor = Diagonal(matrix.diagonal()) if diagonal else Dense(matrix)
    assert fitness(factor, factor).inverse_error is None
    assert fitness(factor, factor).null_overlap == pytest.approx(1)


def test_a_covariance_of_few_examples_keeps_its_null_space_by_leading_vectors() -> None:
    start = original(covariance(12, 0, 3))
    whole = compress_factor(start, Recipe.parse("svd-3"), fitness=True).loss
    less = compress_factor(start, Recipe.parse("low-rank-1"), fitness=True).loss
    assert whole is not None
    assert less is not None
    assert whole.null_overlap == pytest.approx(1, abs=1e-6)
    assert less.null_overlap is not None
    assert less.null_overlap < 0.99


def test_measures_are_written_and_read_again(tmp_path: Path) -> None:
    before = on_disk(rich(tasks=1), tmp_path / "before")
    save_artifact(before, tmp_path / "plain", recipe="low-rank-2")
    save_artifact(before, tmp_path / "told", recipe="low-rank-2", fitness=True)
    silent, told = (
        load_artifact(tmp_path / name, verify=False).provenance.losses
        for name in ("plain", "told")
    )
    assert silent.keys() == told.keys()
    for name, loss in told.items():
        assert loss.diagonal_error is not None
        own = silent[name]
        assert own == Loss(loss.error, loss.min_eigenvalue, loss.lift)


def test_what_cannot_be_bounded_is_dropped(tmp_path: Path) -> None:
    before = on_disk(plain(), tmp_path / "before")
    save_artifact(before, tmp_path / "once", recipe="low-rank-3", fitness=True)
    once = load_artifact(tmp_path / "once", verify=False)
    again = compress(once, Recipe.parse("low-rank-1"), tmp_path, fitness=True)
    twice = {n: again.provenance.losses[n] for n in once.provenance.losses}
    changed = [n for n in twice if twice[n] != once.provenance.losses[n]]
    assert changed
    assert all(twice[n].diagonal_error is None for n in changed)
    other = on_disk(plain(seed=1), tmp_path / "other")
    save_artifact(other, tmp_path / "two", recipe="low-rank-3", fitness=True)
    total = merge([once, load_artifact(tmp_path / "two", verify=False)])
    assert total.provenance.losses
    assert all(t.inverse_error is None for t in total.provenance.losses.values())
