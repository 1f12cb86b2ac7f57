"""A few eigenvectors of large factors, against all of them."""

import pytest
import torch

from kfac_artifacts.compress.forms import Leading
from kfac_artifacts.compress.originals import LARGE, Original, lanczos
from kfac_artifacts.factors import Dense, LowRank


def covariance(samples: int, dim: int = LARGE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(samples)
    x = (
        torch.randn(samples, dim, generator=generator)
        * torch.arange(dim).add(1).rsqrt()
    )
    return x.mT @ x / samples


@pytest.mark.parametrize("rank", [1, 8, 32])
def test_a_few_eigenvectors_are_those_of_the_whole(rank: int) -> None:
    matrix = covariance(200)
    found = lanczos(matrix, rank)
    assert found is not None
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(found[0], values[-rank:], rtol=1e-4, atol=1e-6)
    span = (found[1] * found[0]) @ found[1].mT
    wanted = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].mT
    assert float((span - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("samples", [3, 200])
def test_a_large_factor_keeps_its_diagonal_and_its_leading_part(samples: int) -> None:
    matrix = covariance(samples)
    kept = Leading(8.0, "rank", True).apply(Original(Dense(matrix), False, True))
    assert isinstance(kept, LowRank)
    assert len(kept.values) == 8
    torch.testing.assert_close(kept.diagonal(), matrix.diagonal(), rtol=1e-4, atol=1e-5)
    best = LowRank.of_dense(matrix, 8).to_dense()
    assert float((kept.to_dense() - best).norm() / matrix.norm()) < 1e-3


def test_what_does_not_converge_is_left_to_the_whole_decomposition() -> None:
    assert lanczos(torch.zeros(LARGE, LARGE), 4) is None
    zero = Original(Dense(torch.zeros(LARGE, LARGE)), False, True)
    kept = Leading(4.0, "rank", True).apply(zero)
    assert float(kept.to_dense().norm()) == 0


def test_only_large_factors_are_treated_so(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Original(Dense(covariance(50, 64)), False, True)
    assert len(original.leading(2)[0]) == 64
    monkeypatch.setattr("kfac_artifacts.compress.originals.LARGE", 48)
    fresh = Original(Dense(covariance(50, 64)), False, True)
    assert len(fresh.leading(2)[0]) == 2
    assert len(fresh.leading(3)[0]) == 64
