"""For what artifacts are said to be fit, and that nothing is said without grounds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kfac_artifacts.artifact import Artifact, HeldFactors, NamedConfig
from kfac_artifacts.compress import PRESETS, USES, Use, judge_uses, save_artifact
from kfac_artifacts.compress.uses import LIMITS
from kfac_artifacts.factors import Dense, Factor
from kfac_artifacts.format import read_header
from tests.artifacts import plain, rich, small
from tests.compress.test_fitness import decaying

CURVATURE, INPUTS = ["penalty", "inverse"], ["input_inverse", "null_space", "diagonal"]


def steep(estimator: str = "kfac") -> Artifact:
    """An artifact whose factors have eigenvalues of any size."""
    start = plain()
    factors: dict[str, Factor] = {
        name: Dense(decaying(start.factors[name].dim, seed).float())
        for seed, name in enumerate(start.factors)
    }
    about = replace(start.provenance, estimator=NamedConfig(estimator))
    return replace(start, provenance=about, factors=HeldFactors(factors))


def wide(dim: int = 160) -> Artifact:
    """As wide as real ones: one large eigenvalue, and a slow decay of the rest."""
    start = small((dim - 1, dim, dim))
    generator = torch.Generator().manual_seed(0)
    factors: dict[str, Factor] = {}
    for name in start.factors:
        Q = torch.linalg.qr(torch.randn(dim, dim, generator=generator).double())[0]
        values = 1 / torch.arange(1, dim + 1, dtype=torch.float64)
        values[0] = 10
        factors[name] = Dense(((Q * values) @ Q.mT).float())
    return replace(start, factors=HeldFactors(factors))


def judged(
    artifact: Artifact, path: Path, recipe: str | None = None, *, fitness: bool = True
) -> dict[str, Use]:
    save_artifact(artifact, path, recipe=recipe, fitness=fitness)
    return {use.name: use for use in judge_uses(read_header(path))}


def test_what_is_exact_is_fit_for_everything(tmp_path: Path) -> None:
    found = judged(steep(), tmp_path / "a")
    assert list(found) == list(USES)
    assert all(use.fit for use in found.values())
    assert {use.reason for use in found.values()} == {"nothing was lost"}


def test_a_low_rank_is_for_penalties_alone(tmp_path: Path) -> None:
    found = judged(steep(), tmp_path / "a", "low-rank-4")
    losses = read_header(tmp_path / "a").provenance.losses
    assert found["penalty"].fit
    assert found["diagonal"].fit
    for name in ("inverse", "input_inverse"):
        assert found[name].fit is False
        used = losses if name == "inverse" else {"l/A": losses["l/A"]}
        errors = {n: loss.inverse_error or 0.0 for n, loss in used.items()}
        assert found[name].factor == max(errors, key=lambda n: errors[n])
        assert found[name].value == max(errors.values()) > LIMITS["inverse_error"]
    overlap = losses["l/A"].null_overlap
    assert found["null_space"].value == overlap
    assert overlap is not None
    assert found["null_space"].fit == (overlap >= LIMITS["null_overlap"])


@pytest.mark.parametrize("recipe", PRESETS)
def test_our_own_recipes_are_for_penalties(tmp_path: Path, recipe: str) -> None:
    """Their accuracy was measured: README, "How small"."""
    assert judged(wide(), tmp_path / "a", recipe)["penalty"].fit


@pytest.mark.parametrize("recipe", ["diagonal", "prune-10%", "svd-1%"])
def test_what_loses_accuracy_is_not_for_penalties(tmp_path: Path, recipe: str) -> None:
    assert judged(wide(), tmp_path / "a", recipe)["penalty"].fit is False


def test_what_was_not_measured_is_unknown(tmp_path: Path) -> None:
    found = judged(steep(), tmp_path / "a", "int8", fitness=False)
    assert found["penalty"].fit
    for name in ("inverse", *INPUTS):
        assert found[name].fit is None
        assert "is not recorded" in found[name].reason
        assert found[name].factor is not None


def test_without_any_loss_recorded_int8_is_unknown_and_bfloat16_has_bounds(
    tmp_path: Path,
) -> None:
    save_artifact(steep(), tmp_path / "a", recipe="int8")
    header = read_header(tmp_path / "a")
    silent = replace(header, provenance=replace(header.provenance, losses={}))
    assert [use.fit for use in judge_uses(silent)] == [None] * len(USES)
    save_artifact(steep(), tmp_path / "b", storage="bfloat16")
    header = read_header(tmp_path / "b")
    silent = replace(header, provenance=replace(header.provenance, losses={}))
    found = {use.name: use.fit for use in judge_uses(silent)}
    assert found == dict.fromkeys(USES) | {"penalty": True, "diagonal": True}


@pytest.mark.parametrize("estimator", ["nearest", "kfac-reduce"])
def test_an_a_that_is_no_covariance_is_said_to_be_none(
    tmp_path: Path, estimator: str
) -> None:
    found = judged(steep(estimator), tmp_path / "a")
    assert all(found[name].fit for name in CURVATURE)
    for name in INPUTS:
        assert found[name].fit is False
        assert found[name].reason.endswith(estimator)


def test_of_several_terms_no_factor_is_inverted(tmp_path: Path) -> None:
    found = judged(rich(), tmp_path / "a")
    assert found["penalty"].fit
    assert all("several terms" in found[n].reason for n in ["inverse", *INPUTS])
    assert not any(found[n].fit for n in ["inverse", *INPUTS])


def test_directions_that_go_free_make_no_penalty(tmp_path: Path) -> None:
    found = judged(steep(), tmp_path / "a", "svd-2")
    assert found["penalty"].fit is False
    assert found["penalty"].reason == "directions go free"
