"""Traces, effective ranks and largest eigenvalues, beside dense matrices."""

from pathlib import Path

import pytest
import torch

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import Recipe, save_artifact
from kfac_artifacts.factors import Dense, Diagonal
from kfac_artifacts.format import load_artifact
from kfac_artifacts.operator import leading_eigenvalues, portrait
from tests.artifacts import artifact, covariance, dense_block, rich, with_factors
from tests.test_eigen_blocks import ekfac


def compressed(place: Path) -> Artifact:
    save_artifact(rich(), place, recipe=Recipe.parse("low-rank-4"))
    return load_artifact(place)


@pytest.mark.parametrize("kind", ["plain", "rich", "compressed", "eigen"])
def test_traces_and_ranks_are_those_of_the_matrices(tmp_path: Path, kind: str) -> None:
    make = {"plain": artifact, "rich": rich, "eigen": ekfac}
    of = make[kind]() if kind in make else compressed(tmp_path / "small")
    found = portrait(of)
    assert list(found) == list(of.blocks)
    for name, block in of.blocks.items():
        dense = dense_block(of, name, torch.float64)
        trace = block.scale(of.provenance.tasks) * float(dense.trace())
        assert found[name].trace == pytest.approx(trace, rel=1e-5)
        for factor, about in found[name].factors.items():
            matrix = of.factors[factor].to_dense().double()
            rank = float(matrix.trace()) ** 2 / float(matrix.square().sum())
            assert about.dim == len(matrix)
            assert about.effective_rank == pytest.approx(rank, rel=1e-5)
            assert about.leading is None
    sizes = (of.factors.nbytes(name) for name in of.factors)
    assert sum(each.nbytes for each in found.values()) == sum(sizes)


def test_the_largest_eigenvalues_are_those_of_a_decomposition() -> None:
    matrix = covariance(300, 1)
    exact = torch.linalg.eigvalsh(matrix.double()).flip(0)[:32]
    found = leading_eigenvalues(Dense(matrix))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6 * float(exact[0]))
    values = torch.rand(1000)
    assert torch.equal(
        leading_eigenvalues(Diagonal(values), 5),
        values.sort().values.flip(0)[:5].double(),
    )
    small = torch.linalg.eigvalsh(covariance(7, 2).double()).flip(0)
    torch.testing.assert_close(leading_eigenvalues(Dense(covariance(7, 2))), small)


def test_of_nothing_there_is_no_effective_rank() -> None:
    of = rich()
    name = next(iter(of.factors))
    zero = with_factors(
        of, {name: Dense(torch.zeros_like(of.factors[name].to_dense()))}
    )
    block = next(n for n, b in of.blocks.items() if name in b.factors)
    assert portrait(zero)[block].factors[name].effective_rank is None
    assert portrait(zero)[block].trace == 0
