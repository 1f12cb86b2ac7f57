"""Merging and excluding compressed artifacts: what stays exact, and what is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import Recipe, compress, save_artifact
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.factors import BlockDiagonal, Dense, Diagonal, LowRank
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.merge.factor_sums import combine
from tests.artifacts import artifact, tau

NAME = "linear.A"


def large(seed: int, dim: int = 24) -> torch.Tensor:
    """A covariance of few samples, as real factors are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(dim, 10, generator=generator, dtype=torch.float64)
    return x @ x.mT / 10 + 0.01 * torch.eye(dim, dtype=torch.float64)


def compressed(recipe: str, seed: int, where: Path, size: int = 10) -> Artifact:
    """Compress a small artifact, and read it again from disk."""
    folder = where / f"{seed}-factors"
    folder.mkdir()
    made = compress(artifact(seed, size), Recipe.parse(recipe), folder)
    save_artifact(made, where / f"{seed}")
    return load_artifact(where / f"{seed}")


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def test_blocks_add_up_block_by_block_exactly() -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for permutation in (None, order):
        parts = [
            BlockDiagonal.of_dense(large(i), [6, 6, 12], permutation) for i in (1, 2)
        ]
        found = combine(parts, [0.25, 0.75])
        assert isinstance(found.factor, BlockDiagonal)
        wanted = 0.25 * parts[0].to_dense() + 0.75 * parts[1].to_dense()
        torch.testing.assert_close(found.factor.to_dense(), wanted)
        assert found.lost == 0


def test_blocks_of_other_coordinates_add_up_as_dense_matrices() -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    parts = [
        BlockDiagonal.of_dense(large(1), [12, 12]),
        BlockDiagonal.of_dense(large(2), [12, 12], order),
    ]
    found = combine(parts, [1.0, 1.0]).factor
    assert isinstance(found, Dense)
    torch.testing.assert_close(
        found.to_dense(), parts[0].to_dense() + parts[1].to_dense()
    )


@pytest.mark.parametrize("remainder", [True, False])
@pytest.mark.parametrize("rank", [3, 20])
def test_low_rank_factors_are_joined_and_cut_to_the_best_of_the_rank(
    rank: int, remainder: bool
) -> None:
    parts = [LowRank.of_dense(large(i), rank, remainder=remainder) for i in (1, 2)]
    found = combine(parts, [0.25, 0.75])
    exact = 0.25 * parts[0].to_dense() + 0.75 * parts[1].to_dense()
    assert isinstance(found.factor, LowRank)
    assert len(found.factor.values) == rank
    lost = float((found.factor.to_dense() - exact).norm())
    assert lost == pytest.approx(found.lost, abs=1e-9)
    spans = [p.to_dense() - torch.diag(_rest(p)) for p in parts]
    values = torch.linalg.eigvalsh(0.25 * spans[0] + 0.75 * spans[1])
    best = float(values[:-rank].norm())
    assert lost <= best + 1e-9  # the diagonal can only make it better
    if remainder:
        torch.testing.assert_close(found.factor.diagonal(), exact.diagonal())
    assert found.factor.eigenvalue_range()[0] >= 0


def _rest(factor: LowRank) -> torch.Tensor:
    rest = factor.remainder
    return torch.zeros(factor.dim, dtype=torch.float64) if rest is None else rest


def test_low_rank_factors_whose_sum_has_the_rank_lose_nothing() -> None:
    vectors = torch.linalg.qr(torch.randn(24, 3, dtype=torch.float64)).Q.mT
    parts = [LowRank(vectors, torch.tensor(v).double()) for v in ([3, 2, 1], [1, 1, 5])]
    found = combine(parts, [1.0, 2.0])
    assert found.lost == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(
        found.factor.to_dense(), parts[0].to_dense() + 2 * parts[1].to_dense()
    )


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        ("int8", Dense),
        ("block-2", BlockDiagonal),
        ("block-2+int8", BlockDiagonal),
        ("low-rank-1", LowRank),
        ("low-rank-1+int8", LowRank),
        ("diagonal", Diagonal),
        ("prune-30%", Dense),
    ],
)
def test_the_loss_that_is_told_bounds_the_true_one(
    recipe: str, kept: type, tmp_path: Path
) -> None:
    parts = [compressed(recipe, i, tmp_path, 10 * i) for i in (1, 2)]
    merged = merge(parts)
    exact = merge([artifact(1, 10), artifact(2, 20)])
    assert isinstance(merged.factors[NAME], kept)
    for name in merged.factors:
        assert merged.factors.structure(name).name == merged.factors[name].name
        assert (
            merged.factors.structure(name).configuration
            == merged.factors[name].configuration
        )
        error = relative(
            merged.factors[name].to_dense(), exact.factors[name].to_dense()
        )
        loss = merged.provenance.losses.get(name)
        told = 0.0 if loss is None else loss.error
        norm = exact.factors[name].to_dense().norm()
        bound = told * float(merged.factors[name].to_dense().norm() / norm)
        assert error <= bound * 1.001 + 1e-6
    assert NAME in merged.provenance.losses


def test_a_merge_of_compressed_artifacts_is_written_as_they_are(tmp_path: Path) -> None:
    parts = [compressed("low-rank-1", i, tmp_path) for i in (1, 2)]
    merged = merge(parts)
    save_artifact(merged, tmp_path / "merged")
    found = load_artifact(tmp_path / "merged")
    assert found.provenance.losses == merged.provenance.losses
    for name in merged.factors:
        assert found.factors.storage(name) == parts[0].factors.storage(name)
        torch.testing.assert_close(
            found.factors[name].to_dense(), merged.factors[name].to_dense()
        )


@pytest.mark.parametrize(
    "recipe", ["block-2", "block-2+int8", "low-rank-1", "int8", "diagonal", "prune-60%"]
)
@pytest.mark.parametrize("own", ["dense", "compressed"])
def test_taking_a_task_out_of_a_compressed_total_rewards_no_drift(
    recipe: str, own: str, tmp_path: Path
) -> None:
    parts = [artifact(1, 10), artifact(2, 20)]
    for i, part in enumerate(parts):
        save_artifact(part, tmp_path / f"part{i}", storage="float32")
    loaded = [load_artifact(tmp_path / f"part{i}") for i in range(2)]
    folders = [tmp_path / "total", tmp_path / "own"]
    for folder in folders:
        folder.mkdir()
    total = compress(merge(loaded), Recipe.parse(recipe), folders[0])
    removed = loaded[0]
    if own == "compressed":
        removed = replace(
            compress(removed, Recipe.parse(recipe), folders[1]), digest=removed.digest
        )
    others = merge([total], exclude=[removed])
    assert others.provenance.tasks == 1
    for name in others.factors:
        low, high = others.factors[name].to(dtype=torch.float64).eigenvalue_range()
        assert low >= -1e-6 * high
    drift = others.drift({n: t.float() for n, t in tau(3).items()})
    assert float(drift) >= 0


def test_excluding_from_dense_totals_stays_exact() -> None:
    parts = [replace(artifact(i, 10 * i), digest=f"sha256:{i:064x}") for i in (1, 2)]
    left = merge([merge(parts)], exclude=[parts[0]])
    for name, factor in parts[1].factors.items():
        torch.testing.assert_close(left.factors[name].to_dense(), factor.to_dense())
    assert not left.provenance.losses


def test_a_dense_and_a_compressed_part_become_dense() -> None:
    mixed = combine([Dense(large(1)), LowRank.of_dense(large(2), 3)], [1.0, 1.0])
    assert isinstance(mixed.factor, Dense)
    wanted = large(1) + LowRank.of_dense(large(2), 3).to_dense()
    torch.testing.assert_close(mixed.factor.to_dense(), wanted)


def test_a_task_is_the_same_whether_it_was_compressed_or_not(tmp_path: Path) -> None:
    for i in (1, 2):
        save_artifact(artifact(i, 10 * i), tmp_path / f"dense{i}", storage="float32")
        (tmp_path / f"f{i}").mkdir()
        one = load_artifact(tmp_path / f"dense{i}")
        two = compress(one, Recipe.parse("block-2"), tmp_path / f"f{i}")
        save_artifact(two, tmp_path / f"small{i}")
    dense, small = (
        [load_artifact(tmp_path / f"{kind}{i}") for i in (1, 2)]
        for kind in ("dense", "small")
    )
    with pytest.raises(MismatchError, match="counted twice"):
        merge([dense[0], small[0]])
    total = merge(small)
    for own in (dense[0], small[0]):
        left = merge([total], exclude=[own])
        assert [s.data.id for s in left.provenance.sources] == ["data2"]
