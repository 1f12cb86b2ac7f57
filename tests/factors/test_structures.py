"""Every structure against its dense matrix, which is the reference."""

from collections.abc import Callable

import pytest
import torch

from kfac_artifacts.choices import STORAGES
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import (
    FACTORS,
    SHAPES,
    BlockDiagonal,
    Dense,
    Diagonal,
    Factor,
    Int8Entries,
    Int8Matrix,
    LowRank,
    Pruned,
)
from kfac_artifacts.factors.eigen import eigh
from kfac_artifacts.format.coding import rounded

DIM = 9


def psd(dim: int = DIM, seed: int = 0, rank: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(dim, rank or 2 * dim, generator=generator)
    found = x @ x.mT / dim
    return (found + found.mT) / 2  # a product need not be symmetric to the last bit


ORDER = torch.tensor([3, 0, 8, 1, 2, 7, 5, 6, 4], dtype=torch.int32)
MAKERS: dict[str, Callable[[torch.Tensor], Factor]] = {
    "dense": Dense,
    "diagonal": lambda m: Diagonal(m.diagonal().clone()),
    "even blocks": lambda m: BlockDiagonal.of_dense(m, [3, 3, 3]),
    "uneven blocks": lambda m: BlockDiagonal.of_dense(m, [2, 2, 4, 1]),
    "permuted blocks": lambda m: BlockDiagonal.of_dense(m, [4, 5], ORDER),
    "low rank": lambda m: LowRank.of_dense(m, 3),
    "low rank without the rest": lambda m: LowRank.of_dense(m, 3, remainder=False),
    "pruned": lambda m: Pruned.of_dense(m, 11),
    "pruned to the diagonal": lambda m: Pruned.of_dense(m, 0),
}
STORED = ("exact", "int8")


@pytest.fixture(params=[(m, s) for m in MAKERS for s in STORED], ids=" ".join)
def factor(request: pytest.FixtureRequest) -> Factor:
    maker, stored = request.param
    made = MAKERS[maker](psd())
    return made if stored == "exact" else rounded(made, STORAGES["int8"])


def test_every_structure_is_tried() -> None:
    assert {make(psd()).name for make in MAKERS.values()} == set(FACTORS)


def test_products_are_those_of_the_dense_matrix(factor: Factor) -> None:
    x = torch.randn(DIM, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(factor.matmul(x), factor.to_dense() @ x)


def test_the_dense_matrix_is_symmetric_and_has_the_diagonal(factor: Factor) -> None:
    dense = factor.to_dense()
    assert factor.dim == DIM
    assert torch.equal(dense, dense.mT)
    torch.testing.assert_close(factor.diagonal(), dense.diagonal())


def test_eigenvalues_lie_in_the_range(factor: Factor) -> None:
    low, high = factor.eigenvalue_range()
    found = torch.linalg.eigvalsh(factor.to_dense())
    assert low <= float(found[0]) + 1e-5
    assert high >= float(found[-1]) - 1e-5


def test_the_range_is_negative_only_where_the_matrix_may_be_indefinite(
    factor: Factor,
) -> None:
    low, _ = factor.eigenvalue_range()
    if isinstance(factor, LowRank | Diagonal):
        assert low >= 0
    else:
        found = torch.linalg.eigvalsh(factor.to_dense())
        assert low == pytest.approx(float(found[0]), abs=1e-5)


def test_lifting_adds_to_the_diagonal_alone(factor: Factor) -> None:
    add_diagonal = factor.add_diagonal(0.25)
    torch.testing.assert_close(
        add_diagonal.to_dense(), factor.to_dense() + 0.25 * torch.eye(DIM)
    )
    if not isinstance(factor, Diagonal):
        assert type(add_diagonal) is type(factor)


def test_a_factor_is_built_again_from_its_fields(factor: Factor) -> None:
    again = type(factor).from_fields(factor.fields(), factor.configuration)
    assert torch.equal(again.to_dense(), factor.to_dense())
    shapes = factor.shapes
    assert list(shapes) == list(factor.fields())
    for name, numbers in factor.fields().items():
        codes = numbers if isinstance(numbers, torch.Tensor) else numbers.codes
        assert tuple(codes.shape) == shapes[name].shape


def test_computing_in_float64_keeps_int8_as_it_is(factor: Factor) -> None:
    wide = factor.to(dtype=torch.float64)
    assert wide.dtype == torch.float64
    assert wide.to_dense().dtype == torch.float64
    torch.testing.assert_close(wide.to_dense().float(), factor.to_dense())
    for name, numbers in factor.fields().items():
        assert type(wide.fields()[name]) is type(numbers)


def test_int8_takes_a_byte_per_entry_in_memory() -> None:
    dense = rounded(Dense(psd(100)), STORAGES["int8"])
    assert isinstance(dense, Dense)
    assert isinstance(dense.matrix, Int8Matrix)
    assert dense.nbytes == 100 * 100 + 8 * 100
    low = rounded(LowRank.of_dense(psd(100), 8), STORAGES["int8"])
    assert isinstance(low, LowRank)
    assert isinstance(low.vectors, Int8Entries)
    assert low.nbytes == 8 * 100 + 4 * 8 + 4 * 8 + 4 * 100


@pytest.mark.parametrize("one", MAKERS)
@pytest.mark.parametrize("other", MAKERS)
def test_inner_products_are_those_of_the_dense_matrices(one: str, other: str) -> None:
    left, right = MAKERS[one](psd()), MAKERS[other](psd(seed=1))
    wanted = (left.to_dense().double() * right.to_dense().double()).sum()
    assert float(left.inner(right)) == pytest.approx(float(wanted), rel=1e-5)


def test_blocks_keep_what_is_within_them() -> None:
    matrix = psd()
    kept = BlockDiagonal.of_dense(matrix, [4, 5], ORDER).to_dense()
    first = set(ORDER[:4].tolist())
    for i in range(DIM):
        for j in range(DIM):
            same = (i in first) == (j in first)
            assert float(kept[i, j]) == (float(matrix[i, j]) if same else 0.0)


def test_low_rank_is_the_best_of_its_rank_and_keeps_the_diagonal() -> None:
    matrix = psd().double()
    values = torch.linalg.eigvalsh(matrix)
    best = LowRank.of_dense(matrix, 3, remainder=False).to_dense()
    lost = float((best - matrix).norm())
    assert lost == pytest.approx(float(values[:-3].norm()))  # Eckart and Young
    whole = LowRank.of_dense(matrix, 3)
    torch.testing.assert_close(whole.diagonal(), matrix.diagonal())
    assert float((whole.to_dense() - matrix).norm()) < lost


def test_an_indefinite_term_keeps_its_largest_values_of_either_sign() -> None:
    matrix = torch.diag(torch.tensor([-5.0, 1.0, 3.0, -0.5]))
    kept = LowRank.of_dense(matrix, 2, remainder=False, definite=False)
    assert sorted(kept.values.tolist()) == [-5.0, 3.0]
    torch.testing.assert_close(
        kept.to_dense(), torch.diag(torch.tensor([-5.0, 0.0, 3.0, 0.0]))
    )


def test_pruning_keeps_the_largest_entries() -> None:
    matrix = psd()
    kept = Pruned.of_dense(matrix, 11).to_dense()
    above = torch.ones(DIM, DIM, dtype=torch.bool).triu(1)
    sizes = matrix[above].abs().sort(descending=True).values
    wanted = torch.where(matrix.abs() >= sizes[10], matrix, 0.0)
    wanted.diagonal().copy_(matrix.diagonal())
    assert torch.equal(kept, wanted)


def test_rows_are_spread_out_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(DIM, 2, generator=torch.Generator().manual_seed(2))
    matrix = psd()
    for maker in (Dense, lambda m: Pruned.of_dense(m, 17)):
        factor = rounded(maker(matrix), STORAGES["int8"])
        whole = factor.matmul(x), factor.to_dense()
        for rows in (1, 2, 4, DIM):
            monkeypatch.setattr("kfac_artifacts.factors.int8.ROWS", rows)
            monkeypatch.setattr("kfac_artifacts.factors.pruned.CHUNK", rows * DIM + 1)
            torch.testing.assert_close(factor.matmul(x), whole[0])
            assert torch.equal(factor.to_dense(), whole[1])


@pytest.mark.parametrize("dim", [1, 2])
def test_tiny_matrices_have_every_structure(dim: int) -> None:
    matrix = psd(dim)
    for made in (
        Dense(matrix),
        BlockDiagonal.of_dense(matrix, [1] * dim),
        LowRank.of_dense(matrix, 1),
        Pruned.of_dense(matrix, 0),
    ):
        for stored in (made, rounded(made, STORAGES["int8"])):
            x = torch.ones(dim, 1)
            torch.testing.assert_close(stored.matmul(x), stored.to_dense() @ x)


@pytest.mark.parametrize(
    ("name", "configuration"),
    [
        ("dense", {"rank": 1}),
        ("block_diagonal", {"blocks": [[1, 8]], "permuted": False}),
        ("block_diagonal", {"blocks": [], "permuted": False}),
        ("block_diagonal", {"blocks": [[1, 4], [1, 4], [1, 1]], "permuted": False}),
        ("block_diagonal", {"blocks": [[9, True]], "permuted": False}),
        ("block_diagonal", {"blocks": [[1, 9]], "permuted": 0}),
        ("low_rank", {"rank": 10, "diagonal": True}),
        ("low_rank", {"rank": 0, "diagonal": True}),
        ("low_rank", {"rank": 2}),
        ("pruned", {"kept": 37}),
        ("pruned", {"kept": -1}),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    name: str, configuration: dict[str, object]
) -> None:
    with pytest.raises(FactorError):
        SHAPES[name](DIM, configuration)


def test_blocks_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(FactorError, match="do not make up 9"):
        BlockDiagonal.of_dense(psd(), [4, 4])


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 2e38])
def test_entries_near_the_end_of_float32_stay_finite(value: float) -> None:
    vectors = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    dense = LowRank(vectors, torch.tensor([value, 1.0])).to_dense()
    expected = torch.tensor([[value, 0, value], [0, 1, 0], [value, 0, value]])
    assert torch.equal(dense, expected)


@pytest.mark.parametrize("size", [1e-43, 1e-40, 1e-20, 1.0, 1e19, 3e38])
def test_eigenvalues_of_matrices_of_any_size_are_right(size: float) -> None:
    matrix = torch.ones(3, 3) - torch.eye(3) / 2  # indefinite once 0.9 is subtracted
    matrix = ((matrix - 0.9 * torch.eye(3)).double() * size).float()
    expected = torch.linalg.eigvalsh(matrix.double())
    for factor in (
        Dense(matrix),
        BlockDiagonal.of_dense(matrix, [3]),
        Pruned.of_dense(matrix, 3),
    ):
        low, high = factor.eigenvalue_range()
        assert low == pytest.approx(float(expected[0]), rel=1e-5)
        assert high == pytest.approx(float(expected[-1]), rel=1e-5)
    values, vectors = eigh(matrix / 4)  # the largest would be beyond float32
    again = (vectors.double() * values.double()) @ vectors.mT.double()
    again = 4 * again
    torch.testing.assert_close(again, matrix.double(), rtol=1e-5, atol=0.3 * size)


def test_entries_that_are_not_finite_have_no_eigenvalues() -> None:
    for value in (float("inf"), float("nan")):
        with pytest.raises(FactorError, match="beyond its number type"):
            Dense(torch.full((2, 2), value)).eigenvalue_range()
