"""Compressing artifacts: one factor at a time, whole or not at all."""

import gc
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import (
    Factors,
    GramianBlock,
    HeldFactors,
    KroneckerBlock,
    Layout,
)
from kfac_artifacts.compress import Budget, Recipe, compress, save_artifact
from kfac_artifacts.compress.originals import originals
from kfac_artifacts.errors import FormatError, PlaceError, SettingsError
from kfac_artifacts.factors import Dense, Diagonal
from kfac_artifacts.format import load_artifact
from kfac_artifacts.verify import verify
from tests.artifacts import (
    contents,
    covariance,
    plain,
    provenance,
    rich,
    symmetric,
    with_factors,
)
from tests.compress.small import on_disk

HOW = ["small", "block-4+int8", "prune-10%", "low-rank-4", Budget(max_error=0.05)]


class Counting(Factors):
    """Factors read afresh, with a count of how many are held by others."""

    def __init__(self, artifact: Any) -> None:
        self.of = artifact.factors
        self.asked: Counter[str] = Counter()
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0

    def __getitem__(self, name: Any) -> Any:
        gc.collect()
        self.most = max(self.most, len(self.alive))
        self.asked[name] += 1
        factor = Dense(self.of[name].to_dense().clone())
        self.alive.add(factor)
        return factor

    def structure(self, name: Any) -> Any:
        return self.of.structure(name)

    def __iter__(self) -> Any:
        return iter(self.of)

    def __len__(self) -> Any:
        return len(self.of)


@pytest.mark.parametrize(("how", "passes"), [("small", 1), (Budget(max_error=0.1), 2)])
def test_factors_are_asked_for_one_by_one(
    tmp_path: Path, how: Budget | str, passes: int
) -> None:
    before = on_disk(plain(), tmp_path / "before")
    counting = Counting(before)
    save_artifact(replace(before, factors=counting), tmp_path / "after", recipe=how)
    assert counting.asked == Counter(dict.fromkeys(before.factors, passes))
    assert counting.most <= 1  # the last one, while the next is read


@pytest.mark.parametrize(("how", "passes"), [("tiny", 1), (Budget(max_error=0.1), 2)])
def test_progress_is_told_after_every_factor(
    tmp_path: Path, how: Budget | str, passes: int
) -> None:
    told: list[int] = []
    save_artifact(plain(), tmp_path / "a", recipe=how, progress=told.append)
    assert told == [1] * passes * len(plain().factors)


@pytest.mark.parametrize("how", HOW)
def test_the_same_input_gives_the_same_bytes_and_nothing_is_left(
    tmp_path: Path, how: Budget | str
) -> None:
    before = on_disk(plain(), tmp_path / "before")
    for name in ("one", "two"):
        save_artifact(before, tmp_path / name, recipe=how)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {path.name for path in tmp_path.iterdir()} == {"before", "one", "two"}


@pytest.mark.parametrize("how", HOW)
def test_everything_but_the_factors_stays_and_verifies(
    tmp_path: Path, how: Budget | str
) -> None:
    before = on_disk(rich(), tmp_path / "before")
    save_artifact(before, tmp_path / "after", recipe=how)
    after = load_artifact(tmp_path / "after", verify=False)
    assert dict(after.blocks) == dict(before.blocks)
    assert replace(after.provenance, losses={}) == before.provenance
    assert list(after.factors) == list(before.factors)
    assert set(after.provenance.losses) <= set(after.factors)
    assert [f.message for f in verify(tmp_path / "after") if not f.good] == []


def test_several_shards_hold_the_same(tmp_path: Path) -> None:
    before = on_disk(rich(), tmp_path / "before")
    save_artifact(before, tmp_path / "one", recipe="block-2+int8")
    save_artifact(before, tmp_path / "many", recipe="block-2+int8", max_shard_bytes=500)
    assert len(list((tmp_path / "many").glob("factors-*-of-*.safetensors"))) > 2
    one, many = (
        load_artifact(tmp_path / "one", verify=False),
        load_artifact(tmp_path / "many", verify=False),
    )
    assert one.provenance == many.provenance
    for name in one.factors:
        for key, tensor in one.factors[name].tensors().items():
            assert torch.equal(tensor, many.factors[name].tensors()[key])
    save_artifact(
        load_artifact(tmp_path / "many", verify=False),
        tmp_path / "again",
        recipe="int8",
    )
    assert [f for f in verify(tmp_path / "again") if not f.good] == []


class StopError(Exception):
    """Raised from the progress."""


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
@pytest.mark.parametrize("how", ["small", Budget(max_error=0.1)])
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_left_of_what_was_stopped(
    tmp_path: Path, error: type[Any], how: Budget | str, replaced: bool
) -> None:
    total = 3 if isinstance(how, str) else 6
    for after in (0, total - 1):
        if replaced:
            save_artifact(plain(), tmp_path / "a", replace=True)
        told: list[int] = []

        def stop(_: Any, told: Any = told, after: Any = after) -> None:
            told.append(1)
            if len(told) > after:
                raise error

        with pytest.raises(error):
            save_artifact(
                plain(), tmp_path / "a", recipe=how, replace=replaced, progress=stop
            )
        assert list(tmp_path.iterdir()) == ([tmp_path / "a"] if replaced else [])
        if replaced:
            assert set(load_artifact(tmp_path / "a").factors) == set(plain().factors)


def test_a_value_that_does_not_fit_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    large = with_factors(plain(), {"l/B": Dense(1e6 * torch.eye(16))})
    with pytest.raises(FormatError, match="l/B: float16 cannot hold"):
        save_artifact(large, tmp_path / "a", recipe="float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["small", Budget(max_error=0.1), "no such recipe"])
def test_a_place_that_is_taken_is_refused_before_any_work(
    tmp_path: Path, how: Budget | str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    before = on_disk(plain(), tmp_path / "before")
    counting = Counting(before)
    with pytest.raises(PlaceError, match="exists already"):
        save_artifact(replace(before, factors=counting), tmp_path / "a", recipe=how)
    assert not counting.asked
    assert contents(tmp_path / "a") == {"mine.txt": b"mine"}
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unknown_recipe_is_refused_before_any_work(tmp_path: Path) -> None:
    before = on_disk(plain(), tmp_path / "before")
    counting = Counting(before)
    with pytest.raises(SettingsError, match="there is no recipe 'large'"):
        save_artifact(replace(before, factors=counting), tmp_path / "a", recipe="large")
    assert not counting.asked
    assert not (tmp_path / "a").exists()


def test_what_is_there_is_replaced_if_asked_even_the_source(tmp_path: Path) -> None:
    before = on_disk(plain(), tmp_path / "a")
    save_artifact(before, tmp_path / "b", recipe="block-2+int8")
    save_artifact(before, tmp_path / "a", recipe="block-2+int8", replace=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_every_factor_may_have_a_recipe_of_its_own(tmp_path: Path) -> None:
    recipes = {"l/A": "svd-2", "l/B": "int8", "norm/G": "float32"}
    found = compress(
        plain(), {n: Recipe.parse(r) for n, r in recipes.items()}, tmp_path
    )
    assert found.factors.structure("l/A").configuration == {
        "rank": 2,
        "diagonal": False,
    }
    assert [found.factors.storage(n) for n in recipes] == [
        "float32",
        "int8",
        "symmetric-float32",
    ]
    assert set(found.provenance.losses) == {"l/A", "l/B"}
    assert found.digest is None


def test_an_artifact_is_known_by_its_blocks() -> None:
    found = dict(originals(rich()))
    assert list(found) == list(rich().factors)
    biased = {name for name, original in found.items() if original.bias}
    assert biased == {"A", "e0A", "e1A"}
    indefinite = {name for name, original in found.items() if not original.definite}
    assert indefinite == {"sA", "sB", "sA1", "sB1"}


def test_one_block_of_one_term_makes_a_shared_factor_definite(tmp_path: Path) -> None:
    """Whichever block comes first: the penalty of the other must not reward drift."""
    shapes = {"sum": (3, 12), "own": (3, 12)}
    sum_block = KroneckerBlock("sum", None, Layout.ROWS, (("A", "B"), ("A1", "B1")))
    own_block = KroneckerBlock("own", None, Layout.ROWS, (("A", "C"),))
    factors = {n: Dense(covariance(3, i)) for i, n in enumerate(("B", "C"))}
    factors |= {"B1": Dense(symmetric(3, 0)), "A1": Dense(symmetric(12, 1))}
    factors["A"] = Dense(torch.full((12, 12), 0.9) + 0.1 * torch.diag(torch.rand(12)))
    for blocks in ({"s": sum_block, "o": own_block}, {"o": own_block, "s": sum_block}):
        of = replace(plain(), blocks=blocks, factors=HeldFactors(factors))
        of = replace(of, provenance=provenance(shapes))
        path = tmp_path / next(iter(blocks))
        save_artifact(of, path, recipe="prune-30%")
        assert load_artifact(path, verify=False).provenance.losses["A"].lift > 0
        assert [f.message for f in verify(path) if not f.good] == []


def test_every_term_of_a_gramian_stays_semidefinite(tmp_path: Path) -> None:
    shapes = {"norm": (12,)}
    matrix = torch.full((12, 12), 0.9) + 0.1 * torch.eye(12) + 0.01 * covariance(12, 1)
    factors = {"G0": Dense(matrix), "G1": Dense(covariance(12, 0))}
    blocks = {"norm": GramianBlock("norm", (("G0",), ("G1",)))}
    of = replace(plain(), blocks=blocks, factors=HeldFactors(factors))
    save_artifact(
        replace(of, provenance=provenance(shapes)), tmp_path / "a", recipe="prune-30%"
    )
    assert [f.message for f in verify(tmp_path / "a") if not f.good] == []


def test_a_table_is_never_made_dense(tmp_path: Path) -> None:
    """A matrix of its size would not fit anywhere."""
    rows = 10**7
    shapes = {"table": (rows, 3)}
    block = KroneckerBlock("table", None, Layout.COLUMNS, (("A", "B"),))
    factors = {"A": Diagonal(torch.ones(rows)), "B": Dense(covariance(3, 0))}
    of = replace(plain(), blocks={"t": block}, factors=HeldFactors(factors))
    of = replace(of, provenance=provenance(shapes))
    save_artifact(of, tmp_path / "a", recipe="small")
    assert load_artifact(tmp_path / "a", verify=False).factors["A"].dim == rows


def test_an_artifact_in_memory_and_on_disk_compress_alike(tmp_path: Path) -> None:
    save_artifact(rich(), tmp_path / "memory", recipe="block-4+int8")
    before = on_disk(rich(), tmp_path / "before")
    save_artifact(before, tmp_path / "disk", recipe="block-4+int8")
    assert contents(tmp_path / "memory") == contents(tmp_path / "disk")
    save_artifact(before, tmp_path / "packed", storage="float32")
    save_artifact(
        load_artifact(tmp_path / "packed", verify=False),
        tmp_path / "c",
        recipe="block-4+int8",
    )
    assert contents(tmp_path / "memory") == contents(tmp_path / "c")
