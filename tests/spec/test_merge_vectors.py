"""The cases of section 11 against the library."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
import torch

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import KfacError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import join_parts, merge
from tests.each import for_each

VECTORS = Path(__file__).parents[2] / "spec/vectors/merge"
INDEX: dict[str, dict[str, Any]] = json.loads((VECTORS / "index.json").read_text())
REFUSED = [name for name, case in INDEX.items() if "cites" in case]
ALLOWED = [name for name in INDEX if name not in REFUSED]
COMPUTED = [name for name in ALLOWED if INDEX[name]["operation"] != "compress"]
SAID = {
    "R11.1 output_map": "has output map",
    "R11.1 estimator": "has estimator",
    "R11.1 parameters": "other base weights|parameters not in both",
    "R11.1 names of blocks": "blocks not in both",
    "R11.1 kind of a block": "blocks of another kind",
    "R11.1 parameters of a block": "blocks of another weight",
    "R11.1 layout of a block": "blocks of another layout",
    "R11.1 part of a block": "blocks of another part",
    "R11.1 constant of a block": "blocks of another constant",
    "R11.3 several terms": "is a sum of",
    "R11.4 size": "more than the 9007199254740991",
    "R11.10 counted twice": "counted twice",
    "R11.11 not among the tasks": "not among the merged tasks",
    "R11.12 no task left": "every task was excluded",
    "R11.16 several tasks": "join before merging",
    "R7.3.7 noise of its own": "noise of its own",
    "R11.16 base_model.id": "the base model",
    "R11.16 output_map": "the output map",
    "R11.16 estimator": "the estimator",
    "R11.16 data": "the data",
    "R11.16 cotangents": "the cotangents",
    "R11.17 parameter": "the parameter",
    "R11.17 block": "the block",
    "R11.17 factor": "the factor",
    "R11.22 weighting": "of a total were weighed by",
    "eigen.8 eigen blocks": "cannot be taken apart",
    "R7.5.9 positions": "does not say of how many positions",
}
"""What the library says, by the rule that is broken and what is wrong."""


def made(name: str) -> Artifact:
    """Do what a case says."""
    case = INDEX[name]
    added, taken = (
        [load_artifact(VECTORS / "artifacts" / one) for one in case[key]]
        for key in ("of", "exclude")
    )
    if case["operation"] == "join":
        return join_parts(added)
    return merge(added, exclude=taken, weighting=case.get("weighting", "size"))


def written(name: str, path: Path) -> Any:
    """Do what a case says, and give the manifest."""
    case = INDEX[name]
    if case["operation"] == "compress":
        (one,) = (load_artifact(VECTORS / "artifacts" / n) for n in case["of"])
        save_artifact(one, path, recipe="low-rank-1+int8")
    else:
        save_artifact(made(name), path)
    return reader.read_manifest((path / "kfac.json").read_bytes())


def expected(name: str) -> Any:
    return json.loads((VECTORS / "expected" / name / "expected.json").read_text())


@for_each([path.name for path in sorted((VECTORS / "artifacts").iterdir())])
def test_every_artifact_of_the_cases_is_a_good_one(name: str) -> None:
    reader.verify(VECTORS / "artifacts" / name)


@for_each(COMPUTED)
def test_an_operation_gives_what_is_expected(name: str) -> None:
    found, wanted = made(name), expected(name)
    assert found.blocks.keys() == wanted["blocks"].keys()
    for block, matrices in wanted["blocks"].items():
        own = found.blocks[block]
        for role, matrix in matrices.items():
            names = [term[own.roles.index(role)] for term in own.terms]
            total = sum(found.factors[factor].to_dense() for factor in names)
            np.testing.assert_allclose(total, matrix, rtol=1e-5, atol=1e-5)
    errors = found.provenance.merge_errors
    assert errors.keys() == wanted["merge_errors"].keys()
    for block, error in wanted["merge_errors"].items():
        for kind, value in error.items():
            assert getattr(errors[block], kind) == pytest.approx(value, abs=1e-6)
    shapes = found.parameters.items()
    tau = {n: change(shape, i) for i, (n, shape) in enumerate(shapes)}
    assert float(found.drift(tau)) == pytest.approx(wanted["drift"], rel=1e-5)


def change(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The change whose drift is told."""
    values = (np.arange(1, np.prod(shape, dtype=int) + 1) * 7 + 3 * seed) % 11 - 5.0
    return torch.tensor((values / 4).reshape(shape), dtype=torch.float32)


@for_each(ALLOWED)
def test_the_manifest_of_a_result_says_what_is_expected(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        manifest = written(name, Path(place) / "result")
    wanted = expected(name)
    for key in ("tasks", "size", "sources"):
        assert manifest[key] == wanted[key]
    weighting = INDEX[name].get("weighting", "size")
    assert manifest.get("weighting", "size") == weighting
    blocks = manifest["blocks"].items()
    counts = {n: b["positions"] for n, b in blocks if "positions" in b}
    assert counts == wanted.get("positions", {})
    if "excluded" in wanted:
        assert sorted(manifest["excluded"]) == wanted["excluded"]
        assert manifest["uncovered"] == wanted["uncovered"]


@for_each(REFUSED)
def test_an_operation_is_refused_for_the_reason_that_the_case_has(name: str) -> None:
    case = INDEX[name]
    with pytest.raises(KfacError) as refusal:
        made(name)
    (number,) = case["cites"]
    of_operation = {
        INDEX[other]["cites"][0] + " " + INDEX[other]["reason"]
        for other in REFUSED
        if (INDEX[other]["operation"] == "join") == (case["operation"] == "join")
    }
    said = {key for key in of_operation if re.search(SAID[key], str(refusal.value))}
    assert said == {f"{number} {case['reason']}"}


def test_every_artifact_is_used_and_every_result_expected() -> None:
    used = {one for case in INDEX.values() for one in (*case["of"], *case["exclude"])}
    assert {path.name for path in (VECTORS / "artifacts").iterdir()} == used
    assert {path.name for path in (VECTORS / "expected").iterdir()} == {*ALLOWED}
