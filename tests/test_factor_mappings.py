"""Factors by name: whatever they are kept as, what is told of one is true of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import Artifact, HeldFactors, NamedConfig
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.factors import Dense
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import join_parts, merge
from tests.artifacts import artifact, plain, provenance, rich


def stored(path: Any) -> Any:
    save_artifact(rich(), path / "a", recipe="low-rank-3+int8")
    return load_artifact(path / "a")


def merged(path: Any) -> Any:
    return merge([artifact(1), artifact(2)])


def joined(path: Path) -> Artifact:
    """One part in memory, one on disk."""
    shapes = {"other.weight": (16, 24), "other.norm": (12,)}
    blocks = {
        "other": replace(plain().blocks["l"], weight="other.weight"),
        "other.norm": replace(plain().blocks["norm"], parameter="other.norm"),
    }
    blocks = {
        name: block.with_factors([f"other/{factor}" for factor in block.factors])
        for name, block in blocks.items()
    }
    factors = {f"other/{name}": f for name, f in plain().factors.items()}
    other = replace(
        plain(),
        provenance=provenance(shapes),
        blocks=blocks,
        factors=HeldFactors(factors),
    )
    save_artifact(plain(), path / "a", storage="float32")
    return join_parts([load_artifact(path / "a"), other])


MADE = {"held": lambda _: rich(), "stored": stored, "merged": merged, "joined": joined}


@pytest.fixture(params=MADE)
def factors(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MADE[request.param](tmp_path).factors


def test_what_is_told_of_a_factor_is_true_of_it(factors: Any) -> None:
    assert len(factors) == len(list(factors)) > 0
    for name, factor in factors.items():
        told = factors.structure(name)
        assert told == NamedConfig(factor.name, factor.configuration)


def test_sizes_are_those_in_memory_unless_they_are_stored(
    factors: Any, tmp_path: Path
) -> None:
    for name, factor in factors.items():
        if factors.storage(name) is None:
            assert factors.nbytes(name) == factor.nbytes
            assert not factors.is_exact(name)


def test_stored_factors_know_how_they_are_stored(tmp_path: Path) -> None:
    for storage, share in {"float32": 1, "bfloat16": 2}.items():
        save_artifact(plain(), tmp_path / storage, storage=storage)
        found = load_artifact(tmp_path / storage).factors
        for name, factor in plain().factors.items():
            assert found.storage(name) == storage
            assert found.nbytes(name) * share == factor.nbytes
            assert found.is_exact(name) == (storage == "float32")


def test_those_that_are_joined_say_what_their_parts_say(tmp_path: Path) -> None:
    factors = joined(tmp_path).factors
    assert (factors.storage("l/A"), factors.storage("other/l/A")) == ("float32", None)
    assert (factors.is_exact("l/A"), factors.is_exact("other/l/A")) == (True, False)


def test_held_factors_are_those_that_were_given() -> None:
    given = {"A": Dense(torch.eye(2))}
    held = HeldFactors(given)
    del given["A"]
    assert torch.equal(held["A"].to_dense(), torch.eye(2))
