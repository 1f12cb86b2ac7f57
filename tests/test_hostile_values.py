"""Values that overflow, are not finite or not definite: refused by name in every use.

Each case was once accepted, or ended in a traceback, an infinite penalty or a rewarded
drift.
"""

import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kfac_artifacts.artifact import Artifact, HeldFactors
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import FactorError, FormatError, SettingsError
from kfac_artifacts.factors import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Factor,
    LowRank,
    Pruned,
)
from kfac_artifacts.format import load_artifact, write_artifact
from kfac_artifacts.format.files import sha256_file
from kfac_artifacts.merge import merge
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests.artifacts import artifact, psd, tau, with_factors
from tests.commands import kfac

NAN, INF = float("nan"), float("inf")


def saved(path: Path, storage: str, **factors: Factor) -> Path:
    of = artifact(1, dtype=torch.float32)
    save_artifact(
        with_factors(of, factors), path, storage=storage, allow_indefinite=True
    )
    return path


def changed(path: Path, tensor: str, index: int, value: float) -> None:
    """Put a number into a float32 tensor, every hash being right afterwards."""
    file = path / "factors.safetensors"
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    at = json.loads(content[8:start])[tensor]["data_offsets"][0] + start + 4 * index
    content[at : at + 4] = struct.pack("<f", value)
    file.write_bytes(content)
    manifest = json.loads((path / "kfac.json").read_text())
    manifest["files"][file.name]["sha256"] = sha256_file(file)
    (path / "kfac.json").write_text(json.dumps(manifest))


LOW = LowRank(torch.eye(5)[:2], torch.ones(2), torch.ones(5))
BLOCKS = BlockDiagonal.of_dense(torch.eye(5), [3, 2])
PRUNED = Pruned.of_dense(torch.eye(5) * 5 + 1, 3)
DAMAGE: dict[str, tuple[Factor, str, str, int, float]] = {
    "one entry of -3e19": (Dense(torch.eye(5)), "float32", "matrix", 1, -3e19),
    "a block of -3e19": (BLOCKS, "float32", "blocks_0", 1, -3e19),
    "an infinite entry": (Dense(torch.eye(5)), "symmetric-float32", "matrix", 3, INF),
    "an int8 scale": (Dense(psd(5, 3).float()), "int8", "matrix.scales", 0, 3e38),
    "an int8 scale of nan": (Dense(torch.eye(5)), "int8", "matrix.scales", 0, NAN),
    "an int8 diagonal": (Dense(torch.eye(5)), "int8", "matrix.diagonal", 2, -INF),
    "an int8 scale of entries": (PRUNED, "int8", "values.scales", 0, 3e38),
    "a low-rank vector": (LOW, "float32", "vectors", 0, 3e19),
    "a low-rank vector of nan": (LOW, "float32", "vectors", 0, NAN),
    "a low-rank value": (LOW, "float32", "values", 1, INF),
    "a low-rank diagonal": (LOW, "float32", "diagonal", 4, NAN),
    "a pruned diagonal": (PRUNED, "float32", "diagonal", 1, INF),
    "a pruned value": (PRUNED, "float32", "values", 2, NAN),
}
USES: dict[str, Callable[[Artifact], object]] = {
    "merge": lambda a: merge([a, artifact(2, dtype=torch.float32)]),
    "penalty": KfacPenalty,
    "operator": CurvatureOperator,
    "drift": lambda a: a.drift(tau(0, torch.float32)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_finite_symmetric_matrix_is_refused_by_name(
    tmp_path: Path, damage: str
) -> None:
    factor, storage, field, index, value = DAMAGE[damage]
    path = saved(tmp_path / "a", storage, **{"linear.A": factor})
    changed(path, f"linear.A/{field}", index, value)
    opened = load_artifact(path)
    for use in USES.values():
        with pytest.raises(FormatError, match=r"^linear\.A is damaged: "):
            use(opened)
    with pytest.raises(FormatError, match=r"^linear\.A is damaged: "):
        save_artifact(opened, tmp_path / "small", recipe="int8")
    bad = [finding for finding in verify(path) if not finding.good]
    assert [finding.what for finding in bad] == ["linear.A"]


def test_the_commands_end_with_exit_code_3(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "float32", **{"linear.A": Dense(torch.eye(5))})
    changed(path, "linear.A/matrix", 1, -3e19)
    good = tmp_path / "b"
    save_artifact(artifact(2, dtype=torch.float32), good)
    for words in (["verify", path], ["merge", path, good, "-o", tmp_path / "c"]):
        done = kfac(*words)
        assert done.exit_code == 3
        assert "linear.A" in done.output + done.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("a", "b"), [(1e25, 1e20), (1e32, 1e-20), (1e-20, 1e32)])
def test_factors_whose_products_may_overflow_are_refused(a: float, b: float) -> None:
    of = artifact(1, dtype=torch.float32)
    large = {"linear.A": Dense(a * torch.eye(5)), "linear.B": Dense(b * torch.eye(3))}
    huge = with_factors(of, large)
    for use in (KfacPenalty, CurvatureOperator):
        with pytest.raises(FactorError, match="linear is too large to compute with"):
            use(huge)


def test_large_factors_that_are_allowed_give_finite_numbers() -> None:
    of = artifact(1, dtype=torch.float32)
    large = {"linear.A": Dense(1e13 * psd(5, 1).float())}
    large |= {"linear.B": Dense(1e13 * psd(3, 2).float())}
    penalty = KfacPenalty(with_factors(of, large))
    moved = {n: (100 * t).requires_grad_() for n, t in tau(0, torch.float32).items()}
    value = penalty(moved)
    value.backward()
    assert value.isfinite()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in moved.values())


@pytest.mark.parametrize("bad", [NAN, INF, 1e20])
def test_a_penalty_that_is_not_finite_names_its_block(bad: float) -> None:
    penalty = KfacPenalty(artifact(1, dtype=torch.float32))
    moved = tau(0, torch.float32)
    moved["table.weight"] = moved["table.weight"] * bad
    with pytest.raises(FactorError, match="the penalty of table is"):
        penalty(moved)


@pytest.mark.parametrize("weight", [NAN, INF, -1.0])
def test_a_multiplier_that_rewards_or_overflows_is_refused(weight: float) -> None:
    with pytest.raises(SettingsError, match="must be a finite number"):
        KfacPenalty(artifact(1), weights={"*": weight})


def test_a_sum_beyond_float32_is_refused_by_name() -> None:
    parts = []
    for seed in (1, 2):
        of = artifact(seed, dtype=torch.float32)
        large = Dense(3e38 * torch.eye(3))
        parts.append(with_factors(of, {"linear.B": large}))
    merged = merge(parts)
    with pytest.raises(FactorError, match=r"linear\.B cannot be merged: .* not finite"):
        merged.factors["linear.B"]


def test_what_is_left_after_taking_out_a_large_task_is_definite(
    tmp_path: Path,
) -> None:
    """Rounding of the total is large beside what is left; it must not reward drift."""
    small = artifact(1, size=10, dtype=torch.float32)
    own = artifact(2, size=10, dtype=torch.float32)
    shrunk = {
        n: Dense(1e-4 * torch.ones(f.dim, f.dim))
        for n, f in small.factors.items()
        if n != "table.A"
    }
    small = with_factors(small, shrunk)
    save_artifact(merge([small, own]), tmp_path / "total")
    save_artifact(
        merge([load_artifact(tmp_path / "total")], exclude=[own]), tmp_path / "rest"
    )
    assert [f for f in verify(tmp_path / "rest") if not f.good] == []
    rest = load_artifact(tmp_path / "rest")
    KfacPenalty(rest)
    for name, factor in shrunk.items():
        found = rest.factors[name].to_dense()
        torch.testing.assert_close(found, factor.to_dense(), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "factor",
    [
        Dense(1e200 * torch.eye(5, dtype=torch.float64)),
        Dense(1e38 * torch.ones(5, 5, dtype=torch.float64) * 10),
        LowRank(1e30 * torch.eye(5)[:2], torch.ones(2)),
        LowRank(torch.full((1, 5), 1e30), torch.ones(1), torch.ones(5)),
        Diagonal(torch.full((5,), NAN)),
    ],
    ids=["1e200", "1e39", "low rank", "low rank with diagonal", "nan"],
)
@pytest.mark.parametrize("storage", ["float32", "symmetric-float32", "bfloat16"])
def test_nothing_is_written_that_cannot_be_read(
    tmp_path: Path, factor: Factor, storage: str
) -> None:
    with pytest.raises(FormatError, match=r"linear\.A: "):
        saved(tmp_path / "a", storage, **{"linear.A": factor})
    assert not (tmp_path / "a").exists()


def test_low_rank_factors_of_large_vectors_and_small_values_are_exact() -> None:
    """The squares of the vectors are beyond float32, the matrix is not."""
    vectors = 1e25 * torch.tensor([[1.0, 2, 3]])
    factor = LowRank(vectors, torch.tensor([1e-38]))
    exact = (vectors.double().mT * 1e-38) @ vectors.double()
    for found in (factor.to_dense(), torch.diag(factor.diagonal())):
        expected = exact if found.count_nonzero() > 3 else torch.diag(exact.diagonal())
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    low, high = factor.eigenvalue_range()
    assert low == 0.0
    assert high == pytest.approx(float(exact.trace()), rel=1e-5)


def test_a_sum_of_terms_that_is_zero_has_no_eigenvalue_to_iterate_for(
    tmp_path: Path,
) -> None:
    of = artifact(1, dtype=torch.float32)
    terms = (("linear.A", "linear.B"), ("linear.A", "linear.B"))
    blocks = {**of.blocks, "linear": replace(of.blocks["linear"], terms=terms)}
    zero = {"linear.A": Dense(torch.zeros(5, 5))}
    made = replace(of, blocks=blocks, factors=HeldFactors({**of.factors, **zero}))
    save_artifact(made, tmp_path / "a")
    assert all(finding.good for finding in verify(tmp_path / "a"))
    assert float(KfacPenalty(load_artifact(tmp_path / "a"))(tau(0, torch.float32))) > 0


def test_verify_tells_the_smallest_ratio_of_definite_factors(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "float32")
    (message,) = [f.message for f in verify(path) if f.what == "eigenvalues"]
    ratios = {}
    for name, factor in load_artifact(path).factors.items():
        values = torch.linalg.eigvalsh(factor.to_dense().double())
        ratios[name] = float(values[0] / values[-1])
    worst = min(ratios, key=lambda name: ratios[name])
    assert ratios[worst] > 0
    assert message.endswith(f"is {ratios[worst]:.1e} ({worst})")


STORAGES = ["float32", "symmetric-float32", "float16", "bfloat16", "int8"]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_matrix_that_is_asymmetric_in_its_last_bits_is_stored_symmetric(
    tmp_path: Path, storage: str
) -> None:
    """As products come out of some processors: the upper triangle is kept."""
    matrix = psd(5, 1).float()
    bent = matrix.clone()
    lower = torch.ones(5, 5, dtype=torch.bool).tril(-1)
    bent[lower] = torch.nextafter(bent, torch.tensor(INF))[lower]
    assert not torch.equal(bent, bent.mT)
    of = artifact(1, dtype=torch.float32)
    digests = []
    for name, given in (("a", matrix), ("b", bent)):
        changed = {**of.factors, "linear.A": Dense(given)}
        write_artifact(
            replace(of, factors=HeldFactors(changed)), tmp_path / name, storage=storage
        )
        assert all(finding.good for finding in verify(tmp_path / name))
        found = load_artifact(tmp_path / name).factors["linear.A"].to_dense()
        assert torch.equal(found, found.mT)
        digests.append(load_artifact(tmp_path / name).digest)
    assert digests[0] == digests[1]
    assert math.isfinite(
        float(KfacPenalty(load_artifact(tmp_path / "b"))(tau(0, torch.float32)))
    )


@pytest.mark.parametrize("recipe", ["prune-30%", "prune-60%", "block-2", "int8"])
@pytest.mark.parametrize("size", [1e-44, 1e-42, 1e-38])
def test_what_is_compressed_of_the_smallest_numbers_is_definite(
    tmp_path: Path, recipe: str, size: float
) -> None:
    """In float32 their eigenvalues were taken for zero, and nothing was lifted."""
    tiny = Dense((size * (psd(5, 3) + torch.eye(5))).float())
    path = saved(tmp_path / "a", "float32", **{"linear.A": tiny})
    try:
        save_artifact(load_artifact(path), tmp_path / "small", recipe=recipe)
    except FormatError as error:
        assert str(error).startswith("linear.A: ")  # noqa: PT017 - or it is right
        return
    assert [f for f in verify(tmp_path / "small") if not f.good] == []


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_what_cannot_be_lifted_within_float32_is_refused_by_name(
    tmp_path: Path, storage: str
) -> None:
    low = BlockDiagonal.of_dense(torch.diag(torch.tensor([1.0, 2, 3, 4, 5])), [2, 3])
    path = saved(tmp_path / "a", "float32", **{"linear.A": low})
    for index in (0, 3):
        changed(path, "linear.A/blocks_0", index, -3.4e38)
    with pytest.raises(FormatError, match=r"linear\.A"):
        save_artifact(load_artifact(path), tmp_path / "small", recipe=storage)
