"""The matrix of an eigen block, against the same formed by ``torch.kron``."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import (
    Dense,
    Diagonal,
    EigenProduct,
    LowRank,
    eigen_product,
)
from tests.artifacts import dense_eigen, psd

D_OUT, D_IN = 3, 4
RANKS = [(3, 4), (3, 2), (2, 4), (1, 1)]


def made(ranks: tuple[int, int] = (3, 4), seed: int = 0, rest: str = "") -> Any:
    """Leading vectors of B and A, and an S that is not that of their values."""
    B, A = (
        LowRank.of_dense(psd(d, seed + d), rank, remainder=name in rest)
        for d, rank, name in ((D_OUT, ranks[0], "B"), (D_IN, ranks[1], "A"))
    )
    generator = torch.Generator().manual_seed(seed)
    S = torch.rand(ranks[0] * ranks[1], generator=generator, dtype=torch.float64)
    return eigen_product(A, B, Diagonal(S))


def formed(K: EigenProduct) -> Tensor:
    return dense_eigen(K.A, K.B, K.S)


@pytest.mark.parametrize("rest", ["", "A", "B", "AB"])
@pytest.mark.parametrize("ranks", RANKS)
def test_it_is_the_matrix_that_the_definition_gives(ranks: Any, rest: str) -> None:
    K = made(ranks, rest=rest)
    matrix = formed(K)
    torch.testing.assert_close(K.to_dense(), matrix)
    torch.testing.assert_close(K.diagonal(), matrix.diagonal())
    x = torch.randn(D_OUT * D_IN, 5, dtype=torch.float64)
    torch.testing.assert_close(K.matmul(x), matrix @ x)
    low, high = K.eigenvalue_range()
    values = torch.linalg.eigvalsh(matrix)
    assert low <= values[0] + 1e-12
    assert high >= values[-1] - 1e-12
    assert low >= 0
    assert K.is_complete == (ranks == (3, 4) and not rest)


@pytest.mark.parametrize("rest", ["", "A", "AB"])
def test_inner_products_are_those_of_the_matrices(rest: str) -> None:
    one, other = made((3, 2), 0, rest), made((2, 4), 5, "B")
    expected = (formed(one) * formed(other)).sum()
    torch.testing.assert_close(one.inner(other), expected)
    torch.testing.assert_close(other.inner(one), expected)
    torch.testing.assert_close(one.inner(one), formed(one).square().sum())


def test_of_orthonormal_vectors_no_other_values_come_closer() -> None:
    basis, other = made((3, 4)), made((2, 4), 5, "B")
    best = basis.projected(other)
    kron = torch.kron(*basis.bases)
    expected = (kron @ formed(other) @ kron.mT).diagonal().view_as(best)
    torch.testing.assert_close(best, expected)


def test_with_the_values_of_its_factors_it_is_their_product() -> None:
    K = made((3, 2), rest="AB")
    S = Diagonal(torch.outer(K.B.values, K.A.values).flatten())
    product = eigen_product(K.A, K.B, S)
    whole = torch.kron(K.B.to_dense(), K.A.to_dense())
    torch.testing.assert_close(product.to_dense(), whole)


def test_what_does_not_belong_together_is_refused() -> None:
    K = made((3, 2))
    with pytest.raises(FactorError, match="must be low_rank, not dense and low_rank"):
        eigen_product(Dense(K.A.to_dense()), K.B, K.S)
    with pytest.raises(FactorError, match="must be diagonal, not dense"):
        eigen_product(K.A, K.B, Dense(K.S.to_dense()))
    with pytest.raises(FactorError, match=r"5 values, but B has 3 .* A has 2"):
        eigen_product(K.A, K.B, Diagonal(torch.ones(5, dtype=torch.float64)))
