"""Artifacts of EK-FAC: kept, used, merged and compressed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, EigenBlock
from kfac_artifacts.compress import compression_report, save_artifact
from kfac_artifacts.errors import FactorError, FormatError, MismatchError
from kfac_artifacts.estimate import Ekfac
from kfac_artifacts.factors import Diagonal
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.network import TensorExamples
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests.artifacts import dense_block, same, with_factors
from tests.commands import kfac
from tests.computed import compute
from tests.estimate.test_nearest import tiny

SIZES = (5, 7, 9)


def ekfac(seed: int = 0, count: int = 9) -> Artifact:
    """Two linear maps with a bias, one used twice, one without, and a table."""
    network, _ = tiny()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 6, (count, 5), generator=generator)
    batch = {"ids": ids, "attention_mask": torch.ones_like(ids)}
    data = TensorExamples(batch, f"data{seed}")
    return compute(network, data, estimator=Ekfac())


def changes(
    artifact: Artifact, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(*shape, generator=generator, dtype=dtype)
        for name, shape in artifact.parameters.items()
    }


def quadratic(artifact: Artifact, tau: Any) -> Tensor:
    """The drift of every block's matrix, written out."""
    total = torch.zeros((), dtype=torch.float64)
    for name, block in artifact.blocks.items():
        w = block.gather(tau).reshape(-1)
        total = total + block.scale(artifact.provenance.tasks) * (
            w @ dense_block(artifact, name).to(w.dtype) @ w
        )
    return total


@pytest.fixture(scope="module")
def parts() -> list[Artifact]:
    return [ekfac(seed, count) for seed, count in enumerate(SIZES)]


def test_the_penalty_and_its_gradient_are_those_of_the_matrices(parts: Any) -> None:
    one = parts[0]
    tau = {n: t.requires_grad_() for n, t in changes(one).items()}
    expected = quadratic(one, tau)
    found = KfacPenalty(one)(tau)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(one.drift(tau), expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, list(tau.values())),
        torch.autograd.grad(expected, list(tau.values())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_the_operator_is_that_of_the_matrices(parts: Any, damping: float) -> None:
    one = parts[1]
    operator = CurvatureOperator(one, damping=damping)
    blocks = [dense_block(one, name) for name in one.blocks]
    whole = torch.block_diag(*blocks)
    whole = whole + damping * torch.eye(len(whole), dtype=whole.dtype)
    tau = changes(one)
    vec = torch.cat([block.gather(tau).reshape(-1) for block in one.blocks.values()])
    found = operator.matvec(tau)
    rows = [block.gather(found).reshape(-1) for block in one.blocks.values()]
    torch.testing.assert_close(torch.cat(rows), whole @ vec)
    torch.testing.assert_close(operator.trace(), whole.trace())
    torch.testing.assert_close(operator.frobenius_norm(), whole.norm())
    values = torch.linalg.eigvalsh(whole)
    torch.testing.assert_close(operator.eigenvalues(), values, atol=1e-9, rtol=1e-6)
    again = operator.inverse(0.1).matvec(operator.matvec(tau))
    rows = [block.gather(again).reshape(-1) for block in one.blocks.values()]
    eye = torch.eye(len(whole), dtype=whole.dtype)
    torch.testing.assert_close(
        torch.cat(rows), torch.linalg.solve(whole + 0.1 * eye, whole @ vec)
    )
    torch.testing.assert_close(operator.logdet(0.1), torch.logdet(whole + 0.1 * eye))


def test_of_few_vectors_the_operator_has_an_inverse_and_nothing_else(
    parts: Any, tmp_path: Path
) -> None:
    save_artifact(parts[0], tmp_path / "few", recipe="low-rank-2")
    few = load_artifact(tmp_path / "few")
    operator = CurvatureOperator(few, dtype=torch.float64)
    tau = changes(few)
    again = operator.inverse(0.1).matvec(operator.matvec(tau))
    damped = CurvatureOperator(few, damping=0.1, dtype=torch.float64).matvec(again)
    for name, expected in operator.matvec(tau).items():
        torch.testing.assert_close(damped[name], expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(FactorError, match=r"2 and 2 vectors .* eigenvalues are not"):
        operator.eigenvalues()


def test_it_is_saved_opened_verified_and_shown(parts: Any, tmp_path: Path) -> None:
    save_artifact(parts[0], tmp_path / "own", storage="float32")
    opened = load_artifact(tmp_path / "own")
    assert opened.blocks == parts[0].blocks
    assert opened.provenance == parts[0].provenance
    tau = changes(opened)
    single = {name: value.float() for name, value in tau.items()}
    torch.testing.assert_close(
        opened.drift(single).double(), quadratic(parts[0], tau), rtol=1e-4, atol=0
    )
    assert all(finding.good for finding in verify(tmp_path / "own"))
    assert "eigen" in kfac("inspect", tmp_path / "own").output
    save_artifact(opened, tmp_path / "again")
    assert same(load_artifact(tmp_path / "again"), opened)


def test_negative_eigenvalues_are_found(parts: Any, tmp_path: Path) -> None:
    name = parts[0].blocks["first"].factors[2]
    values = parts[0].factors[name].diagonal().clone()
    values[0] = -values.max()
    bad = with_factors(parts[0], {name: Diagonal(values)})
    with pytest.raises(FactorError, match=r"first\.S is clearly indefinite"):
        KfacPenalty(bad)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"S": "first.A"}, "factor 'first.A' must be diagonal, not low_rank"),
        ({"A": "table.B"}, "factor 'table.B' must be low_rank, not dense"),
        ({"S": "last.S"}, r"factor 'last.S' has size 6, not 15"),
        ({"S": "none"}, "no factor 'none'"),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    parts: Any, tmp_path: Path, change: dict[str, str], error: str
) -> None:
    save_artifact(parts[0], tmp_path / "own")
    path = tmp_path / "own" / "kfac.json"
    manifest = json.loads(path.read_text())
    manifest["blocks"]["first"]["terms"][0] |= change
    path.write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=error):
        load_artifact(tmp_path / "own")


def test_two_terms_are_refused(parts: Any, tmp_path: Path) -> None:
    save_artifact(parts[0], tmp_path / "own")
    path = tmp_path / "own" / "kfac.json"
    manifest = json.loads(path.read_text())
    manifest["blocks"]["first"]["terms"] *= 2
    path.write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="terms must be one"):
        load_artifact(tmp_path / "own")


def test_merging_keeps_a_and_b_and_fits_the_rest(parts: Any, tmp_path: Path) -> None:
    total = merge(parts)
    sizes = torch.tensor(SIZES, dtype=torch.float64)
    lam = sizes / sizes.sum()
    for name, block in total.blocks.items():
        if not isinstance(block, EigenBlock):
            continue
        a, b, s = block.factors
        A = sum(w * p.factors[a].to_dense() for w, p in zip(lam, parts, strict=True))
        B = sum(p.factors[b].to_dense() for p in parts)
        torch.testing.assert_close(total.factors[a].to_dense(), A)
        torch.testing.assert_close(total.factors[b].to_dense(), B)
        K = sum(
            len(SIZES) * w * dense_block(p, name)
            for w, p in zip(lam, parts, strict=True)
        )
        basis = torch.kron(
            *(total.factors[n].vectors.double() for n in (b, a))  # type: ignore[attr-defined]
        )
        best = (basis @ K @ basis.mT).diagonal()
        torch.testing.assert_close(total.factors[s].diagonal(), best)
        lost = (dense_block(total, name).double() - K).norm() / K.norm()
        error = total.provenance.merge_errors[name]
        assert error.relative == pytest.approx(float(lost), rel=1e-3)
        assert error.relative <= error.bound
    save_artifact(total, tmp_path / "total")
    assert all(finding.good for finding in verify(tmp_path / "total"))
    again, tau = load_artifact(tmp_path / "total"), changes(total)
    single = {name: value.float() for name, value in tau.items()}
    torch.testing.assert_close(
        again.drift(single).double(), total.drift(tau), rtol=1e-4, atol=0
    )


def test_one_artifact_merged_alone_is_itself(parts: Any) -> None:
    (one, other) = (parts[0], replace(parts[0]))
    source = one.provenance.sources[0]
    renamed = replace(source, data=replace(source.data, id="other"))
    twin = replace(other, provenance=replace(one.provenance, sources=(renamed,)))
    total = merge([one, twin])
    tau = changes(one)
    torch.testing.assert_close(total.drift(tau), one.drift(tau))
    for error in total.provenance.merge_errors.values():
        assert error.relative < 1e-6


def test_a_total_cannot_be_taken_apart(parts: Any) -> None:
    with pytest.raises(MismatchError, match="merge the others, without"):
        merge([merge(parts)], exclude=[parts[0]])


@pytest.mark.parametrize(
    "recipe", ["bfloat16", "int8", "low-rank-2", "svd-2", "low-rank-50%+int8", "tiny"]
)
def test_it_is_compressed_and_reported(parts: Any, tmp_path: Path, recipe: str) -> None:
    save_artifact(parts[0], tmp_path / "whole", storage="float32")
    whole = load_artifact(tmp_path / "whole")
    save_artifact(whole, tmp_path / "small", recipe=recipe)
    small = load_artifact(tmp_path / "small")
    assert all(finding.good for finding in verify(tmp_path / "small"))
    report = compression_report(whole, small)
    for module in report.modules:
        before, after = (dense_block(a, module.name).double() for a in (whole, small))
        lost = (after - before).norm() / before.norm()
        assert module.error == pytest.approx(float(lost), rel=1e-3, abs=1e-6)
        trace = after.trace() / before.trace()
        assert module.trace == pytest.approx(float(trace), rel=1e-4)
    for name, loss in small.provenance.losses.items():
        full, few = whole.factors[name], small.factors[name]
        if name.endswith(".S") and full.dim > few.dim:
            kept = few.diagonal().double().square().sum()
            cut = 1 - kept / full.diagonal().double().square().sum()
            assert loss.error == pytest.approx(float(cut) ** 0.5, abs=0.02)
    tau = changes(small, torch.float32)
    expected = quadratic(small, tau)
    torch.testing.assert_close(small.drift(tau), expected.float(), rtol=1e-3, atol=0)


def test_fitness_of_cut_eigenvalues_counts_those_that_are_gone(
    parts: Any, tmp_path: Path
) -> None:
    """Against inverses of the whole curvature, in the basis that it had."""
    save_artifact(parts[0], tmp_path / "whole", storage="float32")
    whole = load_artifact(tmp_path / "whole")
    save_artifact(whole, tmp_path / "few", recipe="svd-2", fitness=True)
    few = load_artifact(tmp_path / "few")
    eigen = {n: b for n, b in whole.blocks.items() if isinstance(b, EigenBlock)}
    for name, block in eigen.items():
        S = block.factors[-1]
        exact, found = (dense_block(a, name).double() for a in (whole, few))
        damping = 0.01 * exact.trace() / len(exact) * torch.eye(len(exact)).double()
        inverse = torch.linalg.inv(exact + damping)
        lost = (torch.linalg.inv(found + damping) - inverse).norm() / inverse.norm()
        told = few.provenance.losses[S].inverse_error
        assert told == pytest.approx(float(lost), rel=1e-3)
        assert told > 0.1


def test_what_changes_its_vectors_is_refused(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="block-2 does not go with ekfac"):
        save_artifact(parts[0], tmp_path / "own", recipe="block-2")
    assert not (tmp_path / "own").exists()


def test_a_merged_total_keeps_its_storage(parts: Any, tmp_path: Path) -> None:
    for number, part in enumerate(parts):
        save_artifact(part, tmp_path / str(number), storage="float16")
    loaded = [load_artifact(tmp_path / str(n)) for n in range(len(parts))]
    save_artifact(merge(loaded), tmp_path / "total")
    again = load_artifact(tmp_path / "total")
    assert {again.factors.storage(n) for n in again.blocks["first"].factors} == {
        "float16"
    }
