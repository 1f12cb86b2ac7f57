"""Compressing one factor: small, semidefinite, and truthful about what was lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings, strategies as st
from torch import Tensor

from kfac_artifacts.artifact import Loss, NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress import Recipe, compress, save_artifact
from kfac_artifacts.compress.compress_factor import compress_factor
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.compress.recipes import storages
from kfac_artifacts.errors import FormatError
from kfac_artifacts.factors import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Factor,
    Int8Entries,
    Int8Matrix,
    LowRank,
    Pruned,
)
from kfac_artifacts.format import load_artifact
from kfac_artifacts.format.factor_info import factor_info
from tests.artifacts import contents, covariance, plain, symmetric
from tests.compress.small import on_disk, original, same_tensors

FORMS = ["block-3", "block-2-correlated", "low-rank-2", "low-rank-30%", "svd-2"]
FORMS += ["low-rank-trace-90%", "svd-50%", "svd-trace-80%", "prune-20%", "diagonal"]
DTYPES = storages()
RECIPES = [*DTYPES, "small", "tiny"]
RECIPES += [f"{form}+{storage}" for form in FORMS for storage in DTYPES]
PAIRS = [("low-rank-4", "int8"), ("int8", "low-rank-4+int8"), ("bfloat16", "int8")]
PAIRS += [("block-4+int8", "svd-3"), ("prune-30%", "block-2"), ("int8", "diagonal")]
PAIRS += [("block-4+int8", "block-2-correlated+int8"), ("low-rank-8+int8", "tiny")]
ROUNDING = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "int8": 2e-2}
MATRICES = {
    "dim": st.sampled_from([1, 2, 3, 4, 7, 12, 33]),
    "samples": st.sampled_from([0, 1, 2, 5, 70]),
    "seed": st.integers(0, 10**6),
    "bias": st.booleans(),
}


def type_of(factor: Factor) -> NamedConfig:
    return NamedConfig(factor.name, factor.configuration)


@pytest.mark.parametrize("name", RECIPES)
@given(**MATRICES)
@settings(deadline=None, max_examples=8)
def test_what_is_compressed_is_small_semidefinite_and_told(
    name: str, dim: Any, samples: Any, seed: Any, bias: Any
) -> None:
    recipe, matrix = Recipe.parse(name), covariance(dim, seed, samples)
    try:
        made = compress_factor(original(matrix, bias=bias), recipe)
    except FormatError:
        assert recipe.dtype == "float16"  # small numbers are none there
        reject()
    exact, found = matrix.double(), made.factor.to_dense().double()
    values = torch.linalg.eigvalsh(found)
    assert values[0] >= -1.1e-5 * values[-1] - 1e-30
    assert torch.equal(found, found.mT)
    _check_told(made.loss, exact, found, recipe)
    codec = STORAGES[recipe.storage]
    plain_info = factor_info(type_of(Dense(matrix)), dim, codec)
    assert made.info.nbytes <= plain_info.nbytes
    if made.info.nbytes == plain_info.nbytes:
        assert isinstance(made.factor, Dense)
    assert made.info == factor_info(type_of(made.factor), dim, codec)


def _check_told(
    loss: Loss | None, exact: Tensor, found: Tensor, recipe: Recipe
) -> None:
    if loss is None:
        assert torch.equal(found, exact)
        return
    size = exact.norm()
    error = float((found - exact).norm() / size) if size > 0 else 0.0
    assert loss.error == pytest.approx(error, rel=1e-4, abs=1e-6)
    before = found - loss.lift * torch.eye(len(found), dtype=found.dtype)
    values = torch.linalg.eigvalsh(before)
    largest = float(values.abs().max())
    rounding = ROUNDING[recipe.dtype]
    if largest > 0:
        lowest = float(values[0]) / largest
        assert loss.min_eigenvalue <= lowest + rounding  # of low rank it is a bound
        assert loss.lift <= (1.01 * max(-lowest, 0) + 2 * rounding) * largest
    assert (loss.lift > 0) == (loss.min_eigenvalue < -1e-5)


@pytest.mark.parametrize("name", ["int8", "bfloat16", "prune-20%", "block-3+int8"])
@given(**MATRICES)
@settings(deadline=None, max_examples=15)
def test_the_smallest_eigenvalue_is_told_as_it_was_before_the_lift(
    name: str, dim: Any, samples: Any, seed: Any, bias: Any
) -> None:
    recipe, matrix = Recipe.parse(name), covariance(dim, seed, samples)
    loss = compress_factor(original(matrix, bias=bias), recipe).loss
    terms = original(matrix, bias=bias, definite=False)  # the same, never lifted
    unlifted = compress_factor(terms, recipe)
    if loss is None:
        assert unlifted.loss is None
        return
    assert unlifted.loss.lift == 0
    values = torch.linalg.eigvalsh(unlifted.factor.to_dense().double())
    largest = float(values.abs().max())
    lowest = float(values[0]) / largest if largest else 0.0
    assert loss.min_eigenvalue == pytest.approx(lowest, abs=2e-6)
    assert unlifted.loss.min_eigenvalue == pytest.approx(lowest, abs=2e-6)


@pytest.mark.parametrize("name", ["prune-20%", "block-3+int8", "int8", "low-rank-2"])
@given(dim=st.integers(4, 20), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=15)
def test_terms_of_sums_may_be_indefinite_and_are_not_lifted(
    name: str, dim: Any, seed: Any
) -> None:
    matrix = symmetric(dim, seed)
    made = compress_factor(original(matrix, definite=False), Recipe.parse(name))
    found = made.factor.to_dense().double()
    if made.loss is None:
        assert torch.equal(found.float(), matrix)
        return
    assert made.loss.lift == 0
    values = torch.linalg.eigvalsh(found)
    lowest = float(values[0] / values.abs().max())
    if isinstance(made.factor, LowRank):
        assert made.loss.min_eigenvalue < 0 or lowest > -1e-5  # bounds
    else:
        assert made.loss.min_eigenvalue == pytest.approx(lowest, abs=1e-5)
    error = float((found - matrix.double()).norm() / matrix.double().norm())
    assert made.loss.error == pytest.approx(error, rel=1e-4, abs=1e-6)


def test_a_term_that_is_negative_stays_so() -> None:
    matrix = torch.diag(torch.tensor([-5.0, 2.0, 1.0, 0.5])) + 0.01
    made = compress_factor(original(matrix, definite=False), Recipe.parse("svd-1"))
    assert made.factor.to_dense()[0, 0] == pytest.approx(-5, abs=0.02)
    made = compress_factor(original(matrix, definite=False), Recipe.parse("bfloat16"))
    assert made.loss.min_eigenvalue == pytest.approx(-1)  # of the largest in magnitude


def test_pruning_is_repaired() -> None:
    matrix = torch.full((12, 12), 0.9) + 0.1 * torch.eye(12)
    matrix += 1e-3 * covariance(12, 0)
    pruned = compress_factor(
        original(matrix, definite=False), Recipe.parse("prune-30%")
    )
    assert pruned.loss.min_eigenvalue < -0.1
    made = compress_factor(original(matrix), Recipe.parse("prune-30%"))
    assert made.loss.lift > 0.1
    assert float(torch.linalg.eigvalsh(made.factor.to_dense())[0]) > -1e-5
    assert made.loss.error > pruned.loss.error


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("storage", DTYPES)
def test_the_diagonal_is_lifted_by_little_more_than_it_takes(
    storage: str, seed: int
) -> None:
    matrix = covariance(12, seed, 3)
    matrix = matrix / matrix.diagonal().max()
    recipe = Recipe.parse(f"prune-20%+{storage}")
    pruned = compress_factor(original(matrix, definite=False), recipe)
    needed = -float(torch.linalg.eigvalsh(pruned.factor.to_dense())[0])
    lift = compress_factor(original(matrix), recipe).loss.lift
    assert needed > 0.1
    assert needed - 1e-4 <= lift <= 1.05 * needed


@given(**MATRICES)
@settings(deadline=None, max_examples=20)
def test_float32_loses_nothing(dim: Any, samples: Any, seed: Any, bias: Any) -> None:
    matrix = covariance(dim, seed, samples)
    given_one = original(matrix, bias=bias)
    made = compress_factor(given_one, Recipe.parse("float32"))
    assert made.loss is None
    assert made.factor is given_one.factor


def test_float64_is_rounded_and_that_is_told() -> None:
    matrix = covariance(6, 0).double() * (1 + 2.0**-30)
    made = compress_factor(original(matrix), Recipe.parse("float32"))
    assert 0 < made.loss.error < 1e-7
    again = compress_factor(Original(made.factor, False, True), Recipe.parse("float32"))
    assert again.loss is None


@pytest.mark.parametrize("name", RECIPES)
def test_what_would_not_get_smaller_keeps_its_structure(name: str) -> None:
    for dim in (1, 2, 3):
        recipe = Recipe.parse(name)
        made = compress_factor(original(covariance(dim, dim)), recipe)
        codec = STORAGES[recipe.storage]
        candidate = recipe.form.apply(original(covariance(dim, dim)))
        sizes = [
            factor_info(type_of(f), dim, codec).nbytes
            for f in (candidate, Dense(torch.eye(dim)))
        ]
        expected = type(candidate) if sizes[0] < sizes[1] else Dense
        assert type(made.factor) is expected


@pytest.mark.parametrize("name", ["low-rank-30", "block-1", "svd-100%", "prune-100%"])
def test_a_form_that_keeps_all_is_left_out(name: str) -> None:
    made = compress_factor(original(covariance(30, 1)), Recipe.parse(name))
    assert isinstance(made.factor, Dense)
    assert made.loss is None


@pytest.mark.parametrize(
    ("name", "kind", "leaf", "nbytes"),
    [
        ("int8", Dense, Int8Matrix, 40 * 40 + 2 * 4 * 40),
        ("block-4+int8", BlockDiagonal, Int8Matrix, 4 * (10 * 10 + 2 * 4 * 10)),
        # in memory values and diagonals are float32 again
        ("low-rank-2+int8", LowRank, Int8Entries, 2 * 40 + 2 * 4 + 4 * 2 + 4 * 40),
        ("prune-10%+int8", Pruned, Int8Entries, 98 + 78 + 2 * 4 + 4 * 40),
    ],
)
def test_int8_stays_int8_in_memory(
    name: str, kind: type[Any], leaf: type[Any], nbytes: int
) -> None:
    made = compress_factor(original(covariance(40, 3)), Recipe.parse(name))
    assert type(made.factor) is kind
    assert any(type(found) is leaf for found in made.factor.fields().values())
    assert made.factor.nbytes == nbytes
    assert made.factor.to(dtype=torch.float64).nbytes < 8 * nbytes


@pytest.mark.parametrize("name", RECIPES)
def test_a_table_keeps_its_structure(name: str) -> None:
    for dim in (1, 3, 200):
        generator = torch.Generator().manual_seed(dim)
        values = torch.rand(dim, generator=generator)
        made = compress_factor(
            Original(Diagonal(values), False, True), Recipe.parse(name)
        )
        assert isinstance(made.factor, Diagonal)
        found = made.factor.diagonal()
        if made.loss is None:
            assert torch.equal(found, values)
        else:
            error = float((found - values).double().norm() / values.double().norm())
            assert made.loss.error == pytest.approx(error, rel=1e-4)
            assert made.loss.lift == 0
        assert (made.loss is None) == (Recipe.parse(name).dtype == "float32")


def test_values_that_a_storage_cannot_hold_are_refused() -> None:
    with pytest.raises(FormatError, match="float16 cannot hold"):
        compress_factor(original(1e6 * torch.eye(3)), Recipe.parse("float16"))


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_read_again_is_what_was_made(name: str, tmp_path: Path) -> None:
    before = on_disk(plain(), tmp_path / "before")
    save_artifact(before, tmp_path / "after", recipe=name)
    after = load_artifact(tmp_path / "after", verify=False)
    for factor in before.factors:
        given_one = Original(before.factors[factor], False, True)
        made = compress_factor(given_one, Recipe.parse(name))
        assert same_tensors(after.factors[factor], made.factor)
        assert vars(after.factors)["infos"][factor] == made.info
        assert after.provenance.losses.get(factor) == made.loss
    save_artifact(after, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "after")


@pytest.mark.parametrize(("first", "then"), PAIRS)
def test_losses_of_two_compressions_bound_what_was_lost(
    first: str, then: str, tmp_path: Path
) -> None:
    exact = plain()
    once = compress(exact, Recipe.parse(first), _folder(tmp_path / "1"))
    twice = compress(once, Recipe.parse(then), _folder(tmp_path / "2"))
    assert once.provenance.losses.keys() <= twice.provenance.losses.keys()
    for name, loss in twice.provenance.losses.items():
        matrix = exact.factors[name].to_dense().double()
        lost = twice.factors[name].to_dense().double() - matrix
        assert float(lost.norm() / matrix.norm()) <= loss.error + 1e-6
        own = once.provenance.losses.get(name, Loss(0.0, 0.0, 0.0))
        assert loss.error >= own.error


def test_compressing_again_alike_changes_nothing(tmp_path: Path) -> None:
    exact = plain()
    for name in ("int8", "block-4+int8", "bfloat16", "prune-10%+bfloat16"):
        once = compress(exact, Recipe.parse(name), _folder(tmp_path / name))
        kept = Recipe.parse(name.rpartition("+")[2])
        twice = compress(once, kept, _folder(tmp_path / f"{name}-again"))
        for factor in once.factors:
            assert same_tensors(once.factors[factor], twice.factors[factor]), factor
        assert once.provenance.losses == twice.provenance.losses


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
