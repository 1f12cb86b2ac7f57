"""A kind of block of one's own: a class and a line in the table, and nothing else."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import BLOCKS, Artifact, Block, HeldFactors
from kfac_artifacts.compress import compression_report, save_artifact
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import Dense, Diagonal
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests.artifacts import SHAPES, artifact, dense_block, same, tau, with_factors
from tests.commands import kfac

ENTRIES = math.prod(SHAPES["norm.weight"])


@dataclass(frozen=True)
class ScaledIdentity(Block):
    """``s I`` over a parameter; its factor is the number s, not the whole matrix."""

    kind = "scaled_identity"
    roles = ("s",)

    parameter: str
    entries: int
    terms: tuple[tuple[str, ...], ...]

    @property
    @override
    def parameters(self) -> Any:
        return (self.parameter,)

    @override
    def sizes(self, shapes: Any) -> Any:
        return [(name, 1) for name in self.factors]

    @override
    def misfit(self, shapes: Any) -> Any:
        right = self.entries == math.prod(shapes[self.parameter])
        return None if right else "entries are not those of the parameter"

    @override
    def gather(self, tau: Any) -> Any:
        return tau[self.parameter].reshape(-1, 1)

    @override
    def products(self, factors: Any, shapes: Any) -> Any:
        numbers = [factors[name].diagonal() for name in self.factors]
        return [(Diagonal(s.expand(self.entries).contiguous()),) for s in numbers]

    @override
    def to_json(self) -> Any:
        about = {"kind": self.kind, "parameter": self.parameter}
        return about | {"entries": self.entries, "terms": self.terms_to_json()}

    @classmethod
    @override
    def from_json(cls, fields: Any) -> Any:
        parameter, entries = fields.name("parameter"), fields.count("entries")
        return cls(parameter, entries, cls.terms_from_json(fields))


@pytest.fixture(autouse=True)
def in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS, ScaledIdentity.kind, ScaledIdentity)


def scaled(seed: int = 1, s: float = 2.5, entries: int = ENTRIES) -> Artifact:
    """A linear map, a table, and a norm of the new kind."""
    one = artifact(seed, dtype=torch.float32)
    block = ScaledIdentity("norm.weight", entries, (("s",),))
    factors = {n: f for n, f in one.factors.items() if n != "norm.weight.G"}
    return replace(
        one,
        blocks=dict(one.blocks) | {"norm.weight": block},
        factors=HeldFactors(factors | {"s": Dense(torch.tensor([[s]]))}),
    )


def usual(seed: int = 1, s: float = 2.5) -> Artifact:
    """The same curvature, its identity written out as a Gramian."""
    one = artifact(seed, dtype=torch.float32)
    whole = {"norm.weight.G": Dense(s * torch.eye(ENTRIES))}
    return with_factors(one, whole)


def dense(of: Artifact) -> Tensor:
    """Blocks in order, formed by ``torch.kron``."""
    return torch.block_diag(*(dense_block(of, name) for name in of.blocks))


def test_the_penalty_is_that_of_the_matrix_written_out() -> None:
    change = tau(dtype=torch.float32)
    vec = [block.gather(change).reshape(-1) for block in usual().blocks.values()]
    expected = torch.cat(vec) @ dense(usual()) @ torch.cat(vec)
    torch.testing.assert_close(KfacPenalty(scaled())(change), expected)
    torch.testing.assert_close(scaled().drift(change), expected)


def test_the_operator_is_that_of_the_matrix_written_out() -> None:
    found, expected = (CurvatureOperator(a) for a in (scaled(), usual()))
    change = tau(dtype=torch.float32)
    for ours, theirs in (
        (found.matvec(change), expected.matvec(change)),
        (found.inverse(0.1).matvec(change), expected.inverse(0.1).matvec(change)),
    ):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found.trace(), torch.trace(dense(usual())))
    values = torch.linalg.eigvalsh(dense(usual()))
    torch.testing.assert_close(found.eigenvalues().sort().values, values)


def test_it_is_saved_opened_and_verified(tmp_path: Path) -> None:
    save_artifact(scaled(), tmp_path / "own", storage="float32")
    assert same(load_artifact(tmp_path / "own"), scaled())
    assert all(finding.good for finding in verify(tmp_path / "own"))
    negative = scaled(s=-1.0)
    with pytest.raises(FormatError, match="s is indefinite"):
        save_artifact(negative, tmp_path / "negative", storage="float32")
    path = tmp_path / "negative"
    save_artifact(negative, path, storage="float32", allow_indefinite=True)
    (bad,) = (f for f in verify(tmp_path / "negative") if not f.good)
    assert (bad.what, "indefinite" in bad.message) == ("s", True)
    with pytest.raises(FactorError, match="s is clearly indefinite"):
        KfacPenalty(scaled(s=-1.0))


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"'norm.weight'\]: entries are not those"):
        save_artifact(scaled(entries=3), tmp_path / "own")
    with pytest.raises(FactorError, match=r"has shape \[4, 1\], but .* need \[3, 1\]"):
        scaled(entries=3).drift(tau(dtype=torch.float32))


def test_its_number_is_averaged_by_merging() -> None:
    merged = merge([scaled(1, 1.0), scaled(2, 4.0)])
    assert float(merged.factors["s"].to_dense()) == pytest.approx(2.5)
    assert set(merged.provenance.merge_errors) == {"linear", "table"}
    change = tau(dtype=torch.float32)
    expected = merge([usual(1, 1.0), usual(2, 4.0)]).drift(change)
    torch.testing.assert_close(merged.drift(change), expected)


def test_it_is_compressed_and_reported(tmp_path: Path) -> None:
    save_artifact(scaled(), tmp_path / "own")
    save_artifact(scaled(), tmp_path / "small", recipe="bfloat16")
    before, after = (load_artifact(tmp_path / name) for name in ("own", "small"))
    (about,) = (
        m for m in compression_report(before, after).modules if m.name == "norm.weight"
    )
    assert about.norm == pytest.approx(2.5 * ENTRIES**0.5)
    assert about.trace == pytest.approx(1)


def test_the_command_shows_it(tmp_path: Path) -> None:
    save_artifact(scaled(), tmp_path / "own")
    done = kfac("inspect", tmp_path / "own")
    assert done.exit_code == 0
    assert "norm.weight" in done.output
