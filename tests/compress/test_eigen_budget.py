"""Which vectors of EK-FAC are kept, and within which budget: against all choices."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import Artifact, EigenBlock, NamedConfig
from kfac_artifacts.compress import Budget, Recipe, save_artifact
from kfac_artifacts.compress.budget import choose_recipes
from kfac_artifacts.compress.eigen_candidates import groups, tried
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate import Ekfac
from kfac_artifacts.factors import Diagonal, eigen_product
from kfac_artifacts.format import described, load_artifact, read_header
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.verify import verify
from tests.artifacts import dense_block, with_factors
from tests.compress.small import size, total_error
from tests.computed import compute

COUNT, WIDTHS = 40, (9, 12, 16)


class Branches(nn.Module):
    """Two linear maps that share their input, a norm, and a map of what they give."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        inputs, one, other = WIDTHS
        self.one, self.other = nn.Linear(inputs, one), nn.Linear(inputs, other)
        self.norm, self.last = nn.LayerNorm(one + other), nn.Linear(one + other, 8)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.one(x), self.other(x).tanh()], dim=-1)
        return self.last(self.norm(both)).mean(1)


@pytest.fixture(scope="module")
def whole() -> Artifact:
    """Its EK-FAC, S with the largest numbers where eigenvalues of B ⊗ A are small."""
    output = OutputMap(NamedConfig("org.example/y"), lambda m, b: m(b["x"]))
    network = Network(Branches().double(), output, "mine")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, 3, WIDTHS[0], generator=generator, dtype=torch.float64)
    examples = TensorExamples({"x": x}, "data")
    found = compute(network, examples, estimator=Ekfac())
    changed = {}
    for block in found.blocks.values():
        if isinstance(block, EigenBlock):
            S = found.factors[block.factors[-1]].diagonal()
            noise = torch.rand(len(S), generator=generator, dtype=S.dtype)
            changed[block.factors[-1]] = Diagonal(S.flip(0) * noise**4)
    assert found.blocks["one"].inputs == found.blocks["other"].inputs
    return with_factors(found, changed)


def lost(of: Artifact, name: str, kept: Sequence[Sequence[int]]) -> float:
    """Squared error of a block that keeps these vectors of A and of B."""
    A, B, S = (of.factors[factor] for factor in of.blocks[name].factors)
    columns, rows = (
        torch.zeros(factor.dim, dtype=torch.float64).index_fill_(
            0, torch.tensor(places), 1
        )
        for factor, places in zip((A, B), kept, strict=True)
    )
    few = eigen_product(
        A, B, Diagonal(S.diagonal() * torch.outer(rows, columns).flatten())
    )
    return float((few.to_dense() - dense_block(of, name)).square().sum())


def compressed(of: Artifact, path: Path, recipes: dict[str, str]) -> Artifact:
    """Compress some factors, and keep all others."""
    every = {name: Recipe.parse(recipes.get(name, "float32")) for name in of.factors}
    save_artifact(of, path, recipe=every)
    return load_artifact(path)


def error(before: Artifact, after: Artifact, name: str) -> float:
    """Squared error of a block."""
    exact, found = (dense_block(a, name).double() for a in (before, after))
    return float((exact - found).square().sum())


@pytest.mark.parametrize("place", [0, 1])
def test_the_vectors_of_one_side_are_the_best_that_there_are(
    whole: Artifact, tmp_path: Path, place: int
) -> None:
    name = "last" if place == 0 else "one"
    A, B, _ = whole.blocks[name].factors
    found = compressed(whole, tmp_path / "few", {(A, B)[place]: "svd-2"})
    every = [range(whole.factors[factor].dim) for factor in (A, B)]
    best = min(
        lost(whole, name, (pick, every[1]) if place == 0 else (every[0], pick))
        for pick in combinations(every[place], 2)
    )
    assert error(whole, found, name) == pytest.approx(best, rel=1e-4)


def test_a_shared_side_is_the_best_for_all_blocks_together(
    whole: Artifact, tmp_path: Path
) -> None:
    shared = whole.blocks["one"].inputs[0]
    found = compressed(whole, tmp_path / "few", {shared: "svd-3"})
    names = "one", "other"
    best = min(
        sum(
            lost(whole, name, (pick, range(whole.factors[f"{name}.B"].dim)))
            for name in names
        )
        for pick in combinations(range(whole.factors[shared].dim), 3)
    )
    ours = sum(error(whole, found, name) for name in names)
    assert ours == pytest.approx(best, rel=1e-4)


def test_given_the_vectors_of_a_those_of_b_are_the_best(
    whole: Artifact, tmp_path: Path
) -> None:
    A, B, S = whole.blocks["one"].factors
    recipes = {A: "svd-2", B: "svd-3"}
    found = compressed(whole, tmp_path / "few", recipes)
    both = [found.factors[A].vectors, whole.factors[A].vectors]  # type: ignore[attr-defined]
    columns = (both[0].double() @ both[1].double().mT).abs().argmax(1).tolist()
    best = min(
        lost(whole, "one", (columns, rows))
        for rows in combinations(range(whole.factors[B].dim), 3)
    )
    assert error(whole, found, "one") == pytest.approx(best, rel=1e-4)
    assert found.factors[S].dim == 6


@pytest.fixture
def saved(whole: Artifact, tmp_path: Path) -> Artifact:
    save_artifact(whole, tmp_path / "whole", storage="float32")
    return load_artifact(tmp_path / "whole")


@pytest.mark.parametrize("recipe", ["float32", "int8", "low-rank-5+bfloat16"])
def test_what_is_foretold_of_a_choice_is_what_compressing_gives(
    saved: Artifact, tmp_path: Path, recipe: str
) -> None:
    save_artifact(saved, tmp_path / "before", recipe=recipe)
    before = load_artifact(tmp_path / "before")
    for number, group in enumerate(groups(before)):
        candidates, norm = tried(group)
        names = list(group.blocks)
        exact = {name: dense_block(before, name).double() for name in names}
        assert norm == pytest.approx(
            sum(float(matrix.square().sum()) for matrix in exact.values())
        )
        for place, candidate in enumerate(candidates):
            every = dict.fromkeys(before.factors, Recipe.parse("float32"))
            path = tmp_path / f"{number}-{place}"
            save_artifact(before, path, recipe={**every, **candidate.recipes})
            found = load_artifact(path)
            lost = sum(error(before, found, name) for name in names)
            assert candidate.loss == pytest.approx(lost / norm, rel=1e-4, abs=1e-9)
            infos = read_header(path).factors
            assert candidate.nbytes == sum(
                infos[factor].nbytes + described(infos[factor], factor)
                for factor in candidate.recipes
            )
        assert min(candidate.loss for candidate in candidates) == 0


def test_a_largest_size_is_kept_and_more_bytes_never_lose_more(
    saved: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="too few") as refused:
        choose_recipes(saved, Budget(max_bytes=1))
    least, most = int(str(refused.value).split()[-1][:-1]), size(tmp_path / "whole")
    errors = []
    for limit in (least, (3 * least + most) // 4, (least + most) // 2, 2 * most):
        place = tmp_path / str(limit)
        save_artifact(saved, place, recipe=Budget(max_bytes=limit))
        assert size(place) <= limit
        assert all(finding.good for finding in verify(place))
        errors.append(total_error(saved, load_artifact(place)))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[1] > errors[-1] == 0
    with pytest.raises(SettingsError, match=f" {least}B$"):
        choose_recipes(saved, Budget(max_bytes=least - 1))


@pytest.mark.parametrize("limit", [0.5, 0.1, 0.01])
def test_a_largest_error_is_kept(saved: Artifact, tmp_path: Path, limit: float) -> None:
    save_artifact(saved, tmp_path / "own", recipe=Budget(max_error=limit))
    found = load_artifact(tmp_path / "own")
    # of blocks of other kinds the error is told to first order
    assert total_error(saved, found) <= limit * 1.02
    assert size(tmp_path / "own") < size(tmp_path / "whole")


@pytest.mark.parametrize("rank", [2, 4])
def test_it_takes_no_more_bytes_than_the_same_rank_for_all(
    saved: Artifact, tmp_path: Path, rank: int
) -> None:
    save_artifact(saved, tmp_path / "same", recipe=f"low-rank-{rank}+int8")
    uniform = total_error(saved, load_artifact(tmp_path / "same"))
    save_artifact(saved, tmp_path / "own", recipe=Budget(max_error=uniform))
    assert size(tmp_path / "own") < size(tmp_path / "same")
