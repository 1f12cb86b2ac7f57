"""The cases of section 11 against the library."""

import json
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


def made(name: str) -> Artifact:
    """Do what a case says."""
    case = INDEX[name]
    added, taken = (
        [load_artifact(VECTORS / "artifacts" / one) for one in case[key]]
        for key in ("of", "exclude")
    )
    if case["operation"] == "join":
        return join_parts(added)
    return merge(added, exclude=taken)


def expected(name: str) -> Any:
    return json.loads((VECTORS / "expected" / name / "expected.json").read_text())


@for_each([path.name for path in sorted((VECTORS / "artifacts").iterdir())])
def test_every_artifact_of_the_cases_is_a_good_one(name: str) -> None:
    reader.verify(VECTORS / "artifacts" / name)


@for_each(ALLOWED)
def test_an_operation_gives_what_is_expected(name: str) -> None:
    found, wanted = made(name), expected(name)
    assert (found.provenance.tasks, found.provenance.size) == (
        wanted["tasks"],
        wanted["size"],
    )
    assert found.blocks.keys() == wanted["blocks"].keys()
    for block, matrices in wanted["blocks"].items():
        for role, matrix in matrices.items():
            factor = dict(zip("ABS", found.blocks[block].factors, strict=False))
            own = factor["A" if role == "G" else role]
            np.testing.assert_allclose(
                found.factors[own].to_dense(), matrix, rtol=1e-5, atol=1e-5
            )
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
def test_the_sources_of_a_result_are_those_expected(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        save_artifact(made(name), Path(place) / "result")
        manifest = reader.read_manifest((Path(place) / "result/kfac.json").read_bytes())
    assert manifest["sources"] == expected(name)["sources"]


@for_each(REFUSED)
def test_an_operation_is_refused(name: str) -> None:
    with pytest.raises(KfacError):
        made(name)


def test_every_artifact_is_used_and_every_result_expected() -> None:
    used = {one for case in INDEX.values() for one in (*case["of"], *case["exclude"])}
    assert {path.name for path in (VECTORS / "artifacts").iterdir()} == used
    assert {path.name for path in (VECTORS / "expected").iterdir()} == {*ALLOWED}
