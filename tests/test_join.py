"""Joining the parts of an estimation gives the estimation itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import Artifact, Cotangents, NamedConfig
from kfac_artifacts.choices import ESTIMATORS
from kfac_artifacts.compress import Recipe, save_artifact
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.factors import Dense
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import join_parts
from tests.artifacts import artifact, with_factors
from tests.commands import kfac
from tests.computed import compute
from tests.estimate.test_nearest import tiny


def halves(estimator: Any) -> tuple[Artifact, list[Artifact]]:
    network, examples = tiny()
    options = {"estimator": estimator, "cotangents": Cotangents("orthogonal", 1, 4)}
    return (
        compute(network, examples, **options),
        [
            compute(network, examples, only=("table.*", "first.*"), **options),
            compute(network, examples, exclude=("table.*", "first.*"), **options),
        ],
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_joined_parts_equal_the_whole(name: str, tmp_path: Path) -> None:
    whole, parts = halves(ESTIMATORS[name]())
    for number, part in enumerate(parts):
        save_artifact(part, tmp_path / str(number))
    joined = join_parts([load_artifact(tmp_path / "0"), load_artifact(tmp_path / "1")])
    assert joined.parameters == whole.parameters
    assert joined.provenance.excluded == ()
    assert joined.provenance.uncovered == whole.provenance.uncovered
    assert joined.provenance.base == whole.provenance.base
    assert set(joined.blocks) == set(whole.blocks)
    for block in joined.blocks:
        for ours, theirs in zip(
            joined.blocks[block].factors, whole.blocks[block].factors, strict=True
        ):
            torch.testing.assert_close(
                joined.factors[ours].to_dense(),
                whole.factors[theirs].to_dense().float(),
                rtol=1e-5,
                atol=1e-8,
            )
    save_artifact(joined, tmp_path / "joined")
    assert (
        load_artifact(tmp_path / "joined").provenance.sources
        == whole.provenance.sources
    )


def test_parts_of_other_estimations_are_refused_with_all_differences() -> None:
    one, other = artifact(0), artifact(1)
    moved = replace(other.provenance, output_map=NamedConfig("cls"), tasks=2)
    with pytest.raises(MismatchError) as error:
        join_parts([one, replace(other, provenance=moved)])
    for word in ("output map cls", "data", "join before merging", "more than one"):
        assert word in str(error.value)


def test_one_artifact_alone_cannot_be_joined() -> None:
    with pytest.raises(MismatchError, match="two or more"):
        join_parts([artifact(0)])


def test_joined_parts_that_were_compressed_are_a_new_artifact(tmp_path: Path) -> None:
    """The originals of the parts are none of it (format.md, section 11)."""
    _, parts = halves(ESTIMATORS["kfac"]())
    small = []
    for number, part in enumerate(parts):
        save_artifact(part, tmp_path / f"{number}")
        original = load_artifact(tmp_path / f"{number}")
        save_artifact(
            original, tmp_path / f"small-{number}", recipe=Recipe.parse("int8")
        )
        small.append(load_artifact(tmp_path / f"small-{number}"))
        assert small[-1].provenance.sources[0].digest == original.digest
    joined = join_parts(small)
    assert [source.digest for source in joined.provenance.sources] == [None]


def test_joining_what_is_indefinite_has_to_be_asked_for(tmp_path: Path) -> None:
    _, (low, high) = halves(ESTIMATORS["kfac"]())
    name = next(iter(high.factors))
    negative = Dense(-high.factors[name].to_dense())
    save_artifact(low, tmp_path / "low")
    bent = with_factors(high, {name: negative})
    save_artifact(bent, tmp_path / "high", allow_indefinite=True)
    words = ["join", f"{tmp_path / 'low'}", f"{tmp_path / 'high'}"]
    words += ["-o", f"{tmp_path / 'whole'}"]
    done = kfac(*words)
    assert done.exit_code == 3
    assert f"{name} is indefinite" in done.stderr
    assert "--allow-indefinite" in done.stderr
    assert not (tmp_path / "whole").exists()
    assert kfac(*words, "--allow-indefinite").exit_code == 0
