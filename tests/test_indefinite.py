"""Factors with negative eigenvalues: refused by name in every use, or repaired."""

from pathlib import Path

import pytest
import torch

from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import BlockDiagonal, Dense, Factor, LowRank, Pruned
from kfac_artifacts.format import load_artifact, write_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests.artifacts import artifact, rich, with_factors
from tests.commands import kfac
from tests.test_hostile_values import saved

INDEFINITE: dict[str, Factor] = {
    "dense": Dense(torch.diag(torch.tensor([1.0, 1, 1, 1, -0.5]))),
    "blocks": BlockDiagonal.of_dense(torch.ones(5, 5).fill_diagonal_(0.1), [3, 2]),
    "pruned": Pruned.of_dense(torch.ones(5, 5).fill_diagonal_(0.1), 4),
    "low rank": LowRank(torch.eye(5)[:2], torch.tensor([1.0, -0.5])),
    "slightly": Dense(torch.diag(torch.tensor([1.0, 1, 1, 1, -1e-4]))),
    "huge": Dense(torch.diag(torch.tensor([1e27, 1, 1, 1, -1e26]))),
    "tiny": Dense(torch.diag(torch.tensor([1e-35, 0, 0, 0, -1e-36]))),
}


@pytest.mark.parametrize("kind", INDEFINITE)
def test_merge_and_training_refuse_what_verify_refuses(
    tmp_path: Path, kind: str
) -> None:
    path = saved(tmp_path / "a", "float32", **{"linear.A": INDEFINITE[kind]})
    assert [f.what for f in verify(path) if not f.good] == ["linear.A"]
    opened, other = load_artifact(path), artifact(2, dtype=torch.float32)
    for use in (KfacPenalty, lambda a: merge([a, other])):
        with pytest.raises(FactorError, match=r"linear\.A is clearly indefinite"):
            use(opened)
    KfacPenalty(opened, allow_indefinite=True)
    merge([opened, other], allow_indefinite=True)


@pytest.mark.parametrize("kind", INDEFINITE)
def test_the_writer_refuses_what_verify_refuses(tmp_path: Path, kind: str) -> None:
    of = with_factors(artifact(1, dtype=torch.float32), {"linear.A": INDEFINITE[kind]})
    with pytest.raises(FormatError, match=r"linear\.A is indefinite.*-1e-05"):
        save_artifact(of, tmp_path / "a", storage="float32")
    assert list(tmp_path.iterdir()) == []
    for recipe in ("float32", "int8"):
        save_artifact(of, tmp_path / recipe, recipe=recipe)
        assert all(finding.good for finding in verify(tmp_path / recipe))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("share", [5e-6, 2e-5, 5e-3, 2e-2])
def test_writer_and_verifier_draw_the_same_lines(
    tmp_path: Path, storage: str, share: float
) -> None:
    """At 1e-5 where numbers are stored as they are, and at 1e-2 where they are not."""
    bent = Dense(torch.diag(torch.tensor([1.0, 1, 1, 1, -share])))
    of = with_factors(artifact(1, dtype=torch.float32), {"linear.A": bent})
    path = tmp_path / "a"
    write_artifact(of, path, storage=storage, allow_indefinite=True)
    accepted = all(finding.good for finding in verify(path))
    assert accepted == (share < (1e-5 if "float32" in storage else 1e-2))
    if accepted:
        write_artifact(of, tmp_path / "b", storage=storage)
    else:
        with pytest.raises(FormatError, match=r"linear\.A is indefinite"):
            write_artifact(of, tmp_path / "b", storage=storage)


def test_the_writer_takes_terms_of_sums_of_any_sign(tmp_path: Path) -> None:
    bent = torch.diag(torch.tensor([1.0, 1, 1, -0.5]))
    save_artifact(with_factors(rich(), {"sB1": Dense(bent)}), tmp_path / "a")
    assert all(finding.good for finding in verify(tmp_path / "a"))


def test_merging_what_is_indefinite_ends_with_exit_code_3(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "float32", **{"linear.A": INDEFINITE["dense"]})
    save_artifact(artifact(2, dtype=torch.float32), tmp_path / "b")
    words = ["merge", f"{path}", f"{tmp_path / 'b'}", "-o", f"{tmp_path / 'c'}"]
    done = kfac(*words)
    assert done.exit_code == 3
    assert "linear.A is clearly indefinite" in done.stderr
    assert not (tmp_path / "c").exists()
    assert kfac(*words, "--allow-indefinite").exit_code == 0


def test_compressing_what_no_raised_diagonal_repairs_is_refused(
    tmp_path: Path,
) -> None:
    bent = torch.eye(5)
    bent[0, 3] = bent[3, 0] = -3.4e38
    path = saved(tmp_path / "a", "float32", **{"linear.A": Dense(bent)})
    with pytest.raises(FormatError, match=r"linear\.A"):
        save_artifact(load_artifact(path), tmp_path / "b", recipe="bfloat16")
    save_artifact(
        load_artifact(path), tmp_path / "c", recipe="low-rank-1"
    )  # what is left is good
    assert all(finding.good for finding in verify(tmp_path / "c"))


@pytest.mark.parametrize("recipe", ["float32", "low-rank-2", "block-1", "int8"])
@pytest.mark.parametrize("kind", ["dense", "slightly", "pruned", "low rank"])
def test_compressing_repairs_what_is_indefinite_even_where_it_keeps_all(
    tmp_path: Path, kind: str, recipe: str
) -> None:
    path = saved(tmp_path / "a", "float32", **{"linear.A": INDEFINITE[kind]})
    save_artifact(load_artifact(path), tmp_path / "b", recipe=recipe)
    assert all(finding.good for finding in verify(tmp_path / "b"))
    KfacPenalty(load_artifact(tmp_path / "b"))
