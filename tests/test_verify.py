"""Verifying: one finding for each thing that is wrong."""

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import (
    BaseModel,
    GramianBlock,
    HeldFactors,
    KroneckerBlock,
    ParameterInfo,
)
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.definiteness import check_definite
from kfac_artifacts.estimate import Nearest
from kfac_artifacts.factors import BlockDiagonal, Dense, Diagonal, LowRank
from kfac_artifacts.format import load_artifact, read_header
from kfac_artifacts.format.files import sha256_file
from kfac_artifacts.merge import merge
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import Finding, verify
from tests.artifacts import SHA, SHAPES, artifact, dense_block, with_factors
from tests.computed import compute
from tests.estimate.test_nearest import tiny


def save(path: Path, storage: str = "symmetric-float32", **factors: Any) -> Path:
    of = artifact(1, dtype=torch.float32)
    changed = with_factors(of, factors)
    save_artifact(changed, path, storage=storage, allow_indefinite=True)
    return path


def corrupt(path: Path, tensor: str, index: int, value: float) -> None:
    """Put a float32 number into a tensor of a file, and mend the manifest."""
    file = path / "factors.safetensors"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    place = 8 + length + header[tensor]["data_offsets"][0] + 4 * index
    content[place : place + 4] = struct.pack("<f", value)
    file.write_bytes(content)
    manifest = json.loads((path / "kfac.json").read_text())
    manifest["files"][file.name]["sha256"] = sha256_file(file)
    (path / "kfac.json").write_text(json.dumps(manifest))


def bad(findings: list[Finding]) -> dict[str, Any]:
    return {f.what: f.message for f in findings if not f.good}


@pytest.mark.parametrize("storage", ["symmetric-float32", "float32", "bfloat16"])
def test_a_sound_artifact_has_no_bad_finding(tmp_path: Path, storage: str) -> None:
    findings = verify(save(tmp_path / "a", storage))
    assert bad(findings) == {}
    assert {f.what for f in findings} == {"format", "hashes", "factors", "eigenvalues"}


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "a")
    file = path / "factors.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert "sha256" in bad(verify(path))["hashes"]


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "a")
    (path / "factors.safetensors").unlink()
    assert "no factors.safetensors" in bad(verify(path))["format"]


def test_what_is_no_artifact_is_found(tmp_path: Path) -> None:
    assert "there is no kfac.json" in bad(verify(tmp_path))["format"]


def test_an_asymmetric_factor_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "a", "float32", **{"linear.B": Dense(torch.eye(3))})
    corrupt(path, "linear.B/matrix", 1, 0.1)
    assert "not symmetric" in bad(verify(path))["linear.B"]


@pytest.mark.parametrize(
    "factor", [Dense(torch.diag(torch.tensor([1.0, 2, -0.1]))), None]
)
def test_an_indefinite_factor_is_found(tmp_path: Path, factor: Dense | None) -> None:
    table = Diagonal(torch.tensor([1.0, 1, 1, 1, 1, 1, -0.5]))
    name = "linear.B" if factor is not None else "table.A"
    path = save(tmp_path / "a", **{name: factor or table})
    assert "indefinite" in bad(verify(path))[name]


def test_another_base_model_is_found_weight_by_weight(tmp_path: Path) -> None:
    path = save(tmp_path / "a")
    infos = {n: ParameterInfo(s, SHA) for n, s in SHAPES.items()}
    assert bad(verify(path, BaseModel("same", None, infos))) == {}
    infos["linear.bias"] = ParameterInfo((3,), "cd" * 32)
    infos["linear.weight"] = ParameterInfo((3, 5), "ab" * 32)
    del infos["norm.weight"]
    found = bad(verify(path, BaseModel("other", None, infos)))
    assert set(found) == {"linear.bias", "linear.weight", "norm.weight"}


def test_values_that_are_not_finite_are_found(tmp_path: Path) -> None:
    """Writing refuses them, so one is put into a file."""
    path = save(tmp_path / "a")
    corrupt(path, "table.A/values", 0, float("nan"))
    (message,) = bad(verify(path)).values()
    assert "not finite" in message


def test_terms_of_a_sum_need_not_be_semidefinite_alone(tmp_path: Path) -> None:
    """The eigenvalues of the sum are told instead, as the dense matrix has them."""
    network, examples = tiny()
    computed = compute(network, examples, estimator=Nearest(terms=3))
    save_artifact(computed, tmp_path / "sums")
    findings = {f.what: f for f in verify(tmp_path / "sums")}
    assert all(f.good for f in findings.values())
    ratios = {}
    for name, block in computed.blocks.items():
        if isinstance(block, KroneckerBlock):
            values = torch.linalg.eigvalsh(dense_block(computed, name))
            ratios[name] = float(values[0] / values[-1])
    worst = min(ratios, key=lambda name: ratios[name])
    assert f"({worst})" in findings["sums of terms"].message
    told = findings["sums of terms"].message.split("about ")[1].split(" ")[0]
    assert float(told) == pytest.approx(ratios[worst], rel=0.1, abs=1e-4)


HUGE = 2**20
COMPRESSED = {
    "low rank": LowRank(torch.ones(1, HUGE), torch.ones(1), torch.ones(HUGE)),
    "blocks": BlockDiagonal((torch.ones(HUGE, 1, 1),)),
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_small_file_of_a_huge_matrix_is_used_without_making_it(
    tmp_path: Path, kind: str
) -> None:
    of = artifact(1, dtype=torch.float32)
    base = BaseModel("toy", None, {"huge": ParameterInfo((HUGE,), "ab" * 32)})
    parts = []
    for i in (1, 2):
        source = replace(
            of.provenance.sources[0],
            data=replace(of.provenance.sources[0].data, id=f"data{i}"),
        )
        huge = replace(
            of,
            provenance=replace(of.provenance, base=base, sources=(source,)),
            blocks={"huge": GramianBlock("huge", (("G",),))},
            factors=HeldFactors({"G": COMPRESSED[kind]}),
        )
        save_artifact(huge, tmp_path / f"{i}", storage="float32")
        assert bad(verify(tmp_path / f"{i}")) == {}
        parts.append(load_artifact(tmp_path / f"{i}"))
    merged = merge(parts)
    check_definite(merged)
    tau = {"huge": torch.ones(HUGE)}
    value = float(KfacPenalty(merged)(tau))
    one = COMPRESSED[kind].matmul(torch.ones(HUGE, 1)).sum()
    assert value == pytest.approx(float(one), rel=1e-4)  # a mean over equal tasks


def test_a_negative_value_of_low_rank_is_found(tmp_path: Path) -> None:
    bent = LowRank(torch.eye(5)[:2], torch.tensor([1.0, -0.5]), torch.ones(5))
    path = save(tmp_path / "a", "float32", **{"linear.A": bent})
    assert "linear.A" in bad(verify(path))


def test_eigenvalues_of_too_many_rows_are_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file may stand for a large matrix; what is wrong else is found still."""
    path = save(tmp_path / "a")
    infos = read_header(path).factors.values()
    rows = max(info.dim for info in infos if info.structure.name == "dense")
    module = sys.modules[verify.__module__]
    monkeypatch.setattr(module, "MOST_ROWS", rows - 1)
    (said,) = [f for f in verify(path) if f.what == "eigenvalues"]
    assert said.good
    assert f"of more than {rows - 1} rows" in said.message
    assert "smallest" in said.message  # of the others
