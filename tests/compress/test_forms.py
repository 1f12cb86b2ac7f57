"""Forms: what each keeps of a matrix, against its definition."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from kfac_artifacts.compress import Recipe
from kfac_artifacts.compress.grouping import by_correlation, even_sizes
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import BlockDiagonal, Diagonal, LowRank, Pruned
from tests.artifacts import covariance
from tests.compress.small import original

DIMS = st.integers(1, 14)
SEEDS = st.integers(0, 10**6)


def applied(name: str, matrix: Tensor, **options: Any) -> Any:
    return Recipe.parse(name).form.apply(original(matrix, **options))


def test_the_bias_joins_the_last_block() -> None:
    assert even_sizes(769, 8, bias=True) == [96] * 7 + [97]
    assert even_sizes(768, 8, bias=False) == [96] * 8
    assert even_sizes(769, 8, bias=False) == [97] + [96] * 7
    matrix = torch.eye(769)
    runs = applied("block-8", matrix, bias=True).configuration["blocks"]
    assert runs == [[7, 96], [1, 97]]


@given(dim=st.integers(1, 2000), count=st.integers(1, 3000), bias=st.booleans())
def test_blocks_are_even_for_any_number_of_coordinates(
    dim: Any, count: Any, bias: Any
) -> None:
    sizes = even_sizes(dim, count, bias=bias)
    assert sum(sizes) == dim
    own = dim - (bias and dim > 1)
    assert len(sizes) == min(count, own)
    without = [*sizes[:-1], sizes[-1] - (dim - own)]
    assert min(without) >= 1
    assert max(without) - min(without) <= 1
    assert without == sorted(without, reverse=True)


def test_no_blocks_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1, not 0"):
        even_sizes(5, 0, bias=False)


@given(dim=DIMS, count=st.integers(1, 16), seed=SEEDS, bias=st.booleans())
@settings(deadline=None)
def test_blocks_keep_their_entries_and_nothing_else(
    dim: Any, count: Any, seed: Any, bias: Any
) -> None:
    matrix = covariance(dim, seed)
    found = applied(f"block-{count}", matrix, bias=bias)
    assert isinstance(found, BlockDiagonal)
    sizes = even_sizes(dim, count, bias=bias)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    inside = owner[:, None] == owner[None]
    assert torch.equal(found.to_dense(), matrix.where(inside, 0.0))


@given(groups=st.integers(2, 5), each=st.integers(2, 6), seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_correlation_finds_groups_that_were_shuffled(
    groups: Any, each: Any, seed: Any
) -> None:
    dim = groups * each
    blocks = [covariance(each, seed + i) for i in range(groups)]
    order = torch.randperm(dim, generator=torch.Generator().manual_seed(seed))
    matrix = torch.block_diag(*blocks)[order][:, order]
    found = applied(f"block-{groups}-correlated", matrix)
    assert torch.equal(found.to_dense(), matrix)
    assert found.configuration["blocks"] == [[groups, each]]
    ordered = by_correlation(matrix, [each] * groups)
    if not torch.equal(ordered, torch.arange(dim, dtype=torch.int32)):
        assert torch.equal(found.permutation, ordered)


def test_the_order_is_stored_only_where_it_is_another() -> None:
    shuffled = torch.eye(4) + 0.5 * torch.eye(4)[[2, 3, 0, 1]]
    assert applied("block-2-correlated", shuffled).permutation is not None
    matrix = torch.eye(4)
    matrix[0, 1] = matrix[1, 0] = matrix[2, 3] = matrix[3, 2] = 0.5
    assert torch.equal(by_correlation(matrix, [2, 2]), torch.arange(4).int())
    assert applied("block-2-correlated", matrix).permutation is None


@given(dim=DIMS, count=st.integers(1, 6), seed=SEEDS, samples=st.integers(0, 3))
@settings(deadline=None)
def test_correlated_blocks_are_blocks_of_any_covariance(
    dim: Any, count: Any, seed: Any, samples: Any
) -> None:
    matrix = covariance(dim, seed, samples)
    found = applied(f"block-{count}-correlated", matrix, bias=True)
    sizes = even_sizes(dim, count, bias=True)
    order = by_correlation(matrix, sizes).long()
    assert sorted(order.tolist()) == list(range(dim))
    dense = found.to_dense()[order][:, order]
    exact = matrix[order][:, order]
    starts = [0, *itertools.accumulate(sizes)]
    expected = torch.zeros_like(exact)
    for a, b in itertools.pairwise(starts):
        expected[a:b, a:b] = exact[a:b, a:b]
    assert torch.equal(dense, expected)


@given(dim=DIMS, rank=st.integers(1, 16), seed=SEEDS, definite=st.booleans())
@settings(deadline=None)
def test_svd_is_the_best_of_its_rank(
    dim: Any, rank: Any, seed: Any, definite: Any
) -> None:
    matrix = covariance(dim, seed)
    if not definite:
        matrix = matrix - matrix.trace() / (2 * dim) * torch.eye(dim)
    found = applied(f"svd-{rank}", matrix, definite=definite)
    assert isinstance(found, LowRank)
    assert found.remainder is None
    singular = torch.linalg.svdvals(matrix.double())  # Eckart-Young
    least = singular[rank:].square().sum().sqrt()
    lost = (found.to_dense().double() - matrix.double()).norm()
    assert lost == pytest.approx(float(least), rel=1e-4, abs=1e-5 * float(singular[0]))
    assert len(found.values) == min(rank, dim)


@given(dim=DIMS, rank=st.integers(1, 16), seed=SEEDS, samples=st.integers(0, 20))
@settings(deadline=None)
def test_low_rank_keeps_the_diagonal_and_stays_semidefinite(
    dim: Any, rank: Any, seed: Any, samples: Any
) -> None:
    matrix = covariance(dim, seed, samples)
    found = applied(f"low-rank-{rank}", matrix)
    scale = float(matrix.diagonal().max())
    torch.testing.assert_close(
        found.diagonal(), matrix.diagonal(), rtol=0, atol=1e-5 * scale
    )
    assert float(found.values.min()) >= 0
    assert float(found.remainder.min()) >= 0
    vectors, values = found.vectors.double(), found.values.double()
    leading = (vectors.mT * values) @ vectors
    svd = applied(f"svd-{rank}", matrix).to_dense().double()
    torch.testing.assert_close(leading, svd, rtol=0, atol=1e-5 * scale)


@given(dim=DIMS, seed=SEEDS, percent=st.integers(1, 100))
@settings(deadline=None)
def test_a_share_of_the_trace_is_kept_by_the_fewest_vectors(
    dim: Any, seed: Any, percent: Any
) -> None:
    matrix = covariance(dim, seed)
    values = torch.linalg.eigvalsh(matrix).double().flip(0)
    for kind in ("svd", "low-rank"):
        found = applied(f"{kind}-trace-{percent}%", matrix)
        rank, share = len(found.values), percent / 100
        kept = values.clamp(min=0).cumsum(0) / values.abs().sum()
        assert kept[rank - 1] >= share - 1e-6
        assert rank == 1 or kept[rank - 2] < share + 1e-6


@pytest.mark.parametrize(("percent", "rank"), [(1, 1), (25, 3), (50, 5), (100, 10)])
def test_a_share_of_the_rank_is_rounded_but_never_to_none(
    percent: int, rank: int
) -> None:
    share = {25: 30}.get(percent, percent)
    assert len(applied(f"svd-{share}%", covariance(10, 1)).values) == rank


@given(dim=DIMS, seed=SEEDS, percent=st.floats(0.1, 100).map(lambda p: f"{p:.1f}"))
@settings(deadline=None)
def test_pruning_keeps_the_largest_and_the_diagonal(
    dim: Any, seed: Any, percent: Any
) -> None:
    matrix = covariance(dim, seed)
    found = applied(f"prune-{percent}%", matrix)
    assert isinstance(found, Pruned)
    dense = found.to_dense()
    assert torch.equal(dense.diagonal(), matrix.diagonal())
    above = torch.ones_like(matrix, dtype=torch.bool).triu(1)
    entries, kept = matrix[above], dense[above] != 0
    count = round(float(percent) / 100 * len(entries))
    assert int(kept.sum()) == count
    assert torch.equal(dense[above][kept], entries[kept])
    cut = entries[~kept].abs()
    assert count == 0 or len(cut) == 0 or entries[kept].abs().min() >= cut.max()
    assert torch.equal(dense, dense.mT)


@given(dim=DIMS, seed=SEEDS)
@settings(deadline=None)
def test_diagonal_is_the_diagonal(dim: Any, seed: Any) -> None:
    matrix = covariance(dim, seed)
    found = applied("diagonal", matrix)
    assert isinstance(found, Diagonal)
    assert torch.equal(found.to_dense(), matrix.diagonal().diag())
