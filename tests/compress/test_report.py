"""Reports: every number against the blocks formed by ``torch.kron``."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, GramianBlock, HeldFactors, KroneckerBlock
from kfac_artifacts.compress import compression_report, save_artifact
from kfac_artifacts.compress.report import DIRECTIONS
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.factors import Dense
from kfac_artifacts.format import load_artifact
from kfac_artifacts.format.tensors import open_tensors
from tests.artifacts import RICH_BLOCKS, RICH_SHAPES, plain, rich
from tests.compress.small import block_matrix, change, on_disk, total_error

RECIPES = ["float32", "small", "block-3+int8", "prune-10%+bfloat16", "svd-2"]


@pytest.fixture(scope="module", params=RECIPES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Artifact]:
    """An artifact of three tasks and what was made of it."""
    root = tmp_path_factory.mktemp("pair")
    before = on_disk(rich(tasks=3), root / "before")
    save_artifact(before, root / "after", recipe=request.param)
    return before, load_artifact(root / "after", verify=False)


def vectors(block: GramianBlock | KroneckerBlock, tau: dict[str, Tensor]) -> Tensor:
    """A block's part of a task vector, flattened as the block is, by hand."""
    own = [tau[name] for name in block.parameters]
    if block.kind == "gramian":
        return own[0].reshape(-1).double()
    if block.part is not None:
        own = [stack[block.part] for stack in own]
    W = own[0] if block.layout == "rows" else own[0].mT
    if len(own) > 1:
        W = torch.cat([W, own[1][:, None]], dim=1)
    return W.reshape(-1).double()


def penalty(artifact: Artifact, name: str, tau: dict[str, Tensor]) -> float:
    vec = vectors(artifact.blocks[name], tau)
    return float(vec @ block_matrix(artifact, name) @ vec)


def test_error_norm_and_trace_are_those_of_the_blocks(
    pair: tuple[Artifact, Artifact],
) -> None:
    before, after = pair
    report = compression_report(before, after)
    assert [module.name for module in report.modules] == list(RICH_BLOCKS)
    for module in report.modules:
        exact, found = (block_matrix(a, module.name) for a in pair)
        error = float((found - exact).norm() / exact.norm())
        assert module.error == pytest.approx(error, rel=1e-6, abs=1e-7)
        assert module.norm == pytest.approx(float(exact.norm()), rel=1e-9)
        trace = float(found.trace() / exact.trace())
        assert module.trace == pytest.approx(trace, rel=1e-6)
    assert report.error == pytest.approx(total_error(before, after), rel=1e-6, abs=1e-7)


def test_the_smallest_eigenvalue_is_one_or_a_bound(
    pair: tuple[Artifact, Artifact],
) -> None:
    before, after = pair
    for module in compression_report(before, after).modules:
        names = after.blocks[module.name].factors
        lowest = []
        for factor in (after.factors[name] for name in names):
            values = torch.linalg.eigvalsh(factor.to_dense().double())
            lowest.append(float(values[0] / values.abs().max()))
        assert module.min_eigenvalue <= min(lowest) + 1e-7
        if all(after.factors.structure(name).name != "low_rank" for name in names):
            assert module.min_eigenvalue == pytest.approx(min(lowest), abs=1e-7)


def test_random_directions_are_products_of_vectors(
    pair: tuple[Artifact, Artifact],
) -> None:
    before, after = pair
    for module in compression_report(before, after).modules:
        generator = torch.Generator().manual_seed(zlib.crc32(module.name.encode()))
        block = before.blocks[module.name]
        dims = [before.factors[name].dim for name in block.terms[0]]
        drawn: list[Tensor] = [
            torch.randn((d, DIRECTIONS), generator=generator, dtype=torch.float64)
            for d in dims
        ]
        exact, found = (block_matrix(a, module.name) for a in pair)
        errors = []
        for i in range(DIRECTIONS):
            x = drawn[0][:, i]
            if len(drawn) > 1:
                x = torch.outer(drawn[1][:, i], x).reshape(-1)
            errors.append(abs(float(x @ found @ x) / float(x @ exact @ x) - 1))
        expected = sum(errors) / DIRECTIONS
        assert module.random == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_penalties_along_task_vectors_are_compared(
    pair: tuple[Artifact, Artifact],
) -> None:
    before, after = pair
    taus = [change(seed=1), change(seed=2)]
    report = compression_report(before, after, taus)
    for place, tau in enumerate(taus):
        ends = [[penalty(a, name, tau) for name in RICH_BLOCKS] for a in pair]
        for module, old, new in zip(report.modules, *ends, strict=True):
            assert module.directions[place] == pytest.approx(new / old, rel=1e-6)
        total = sum(ends[1]) / sum(ends[0])
        assert report.directions[place] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    "lacking", ["q.weight", "q.bias", "experts.bias", "norm.weight"]
)
def test_parameters_that_are_lacking_count_as_unchanged(
    pair: tuple[Artifact, Artifact], lacking: str
) -> None:
    before, after = pair
    tau = change(seed=3)
    zeros = {**tau, lacking: torch.zeros(RICH_SHAPES[lacking])}
    del tau[lacking]
    found, expected = (compression_report(before, after, [t]) for t in (tau, zeros))
    assert found == expected
    directions = {m.name: m.directions[0] for m in found.modules}
    assert (directions["norm"] is None) == (lacking == "norm.weight")
    assert directions["q"] is not None


def test_a_task_vector_of_other_parameters_has_no_ratio(
    pair: tuple[Artifact, Artifact],
) -> None:
    before, after = pair
    report = compression_report(before, after, [{"other": torch.ones(3)}])
    assert report.directions == (None,)
    assert {module.directions for module in report.modules} == {(None,)}


def test_without_task_vectors_there_are_no_ratios(
    pair: tuple[Artifact, Artifact],
) -> None:
    report = compression_report(*pair)
    assert report.directions == ()
    assert {module.directions for module in report.modules} == {()}


def test_bytes_are_those_in_the_files(pair: tuple[Artifact, Artifact]) -> None:
    report = compression_report(*pair)
    for artifact, side in zip(pair, ("before", "after"), strict=True):
        held: Any = artifact.factors
        directory = held._directory
        stored = open_tensors(directory / "factors.safetensors")
        nbytes = {key: stored.get_tensor(key).nbytes for key in stored.keys()}  # noqa: SIM118
        sizes = {module.name: getattr(module, side) for module in report.modules}
        assert sum(sizes.values()) == sum(nbytes.values())
        owned = {"q": ("A", "q.B"), "k": ("k.B",), "token": ("token.G0", "token.G1")}
        for name, factors in owned.items():  # A is counted where it is first used
            own = sum(n for key, n in nbytes.items() if key.split("/")[0] in factors)
            assert sizes[name] == own


def test_nothing_lost_is_zero_to_the_last_bit(tmp_path: Path) -> None:
    before = on_disk(rich(), tmp_path / "before")
    save_artifact(before, tmp_path / "after", recipe="float32")
    report = compression_report(
        before, load_artifact(tmp_path / "after", verify=False), [change()]
    )
    assert report.error == 0
    assert report.directions == (1,)
    for module in report.modules:
        assert (module.error, module.trace, module.random) == (0, 1, 0)
        assert module.before == module.after


def test_blocks_that_are_zero_have_lost_nothing(tmp_path: Path) -> None:
    of = plain()
    zero = {n: Dense(torch.zeros(f.dim, f.dim)) for n, f in of.factors.items()}
    before = on_disk(replace(of, factors=HeldFactors(zero)), tmp_path / "before")
    save_artifact(before, tmp_path / "after", recipe="small")
    report = compression_report(before, load_artifact(tmp_path / "after", verify=False))
    assert report.error == 0
    for module in report.modules:
        assert (module.error, module.norm, module.trace, module.random) == (0, 0, 1, 0)
        assert module.min_eigenvalue == 0


def test_an_artifact_in_memory_has_its_sizes_there() -> None:
    one = rich()
    modules = compression_report(one, rich()).modules
    sizes = sum(factor.nbytes for factor in one.factors.values())
    assert sum(m.before for m in modules) == sum(m.after for m in modules) == sizes
    assert all(m.error == 0 for m in modules)


def test_other_artifacts_are_refused(tmp_path: Path) -> None:
    one, other = on_disk(rich(), tmp_path / "a"), on_disk(plain(), tmp_path / "b")
    with pytest.raises(MismatchError, match="same blocks"):
        compression_report(one, other)


def test_progress_is_told_after_every_module(pair: tuple[Artifact, Artifact]) -> None:
    told: list[int] = []
    compression_report(*pair, (), told.append)
    assert told == [1] * len(RICH_BLOCKS)
