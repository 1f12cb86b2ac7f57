"""Inputs alone, their counts, and the sums that are restored from them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import Artifact, InputsBlock, NamedConfig
from kfac_artifacts.compress import compression_report, save_artifact
from kfac_artifacts.errors import (
    CoverageError,
    FormatError,
    MismatchError,
    SettingsError,
)
from kfac_artifacts.estimate import Effort, Ekfac, Inputs, Kfac, KfacReduce, Nearest
from kfac_artifacts.fidelity import fidelity
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge, merge_errors
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests import models
from tests.artifacts import dense_block, tau
from tests.commands import kfac
from tests.computed import compute, plan
from tests.estimate.test_nearest import tiny
from tests.estimate.test_plan import uncounted

COUNTED = [Kfac(), Nearest(shrinkage=False), Ekfac(), Inputs()]


def data(seed: int, count: int) -> TensorExamples:
    """Texts of the tiny model, two of them short."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 6, (count, 5), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 3:] = mask[1, 1:] = 0
    return TensorExamples({"ids": ids * mask, "attention_mask": mask}, f"data{seed}")


def rows(examples: TensorExamples) -> dict[str, Tensor]:
    """What goes into every linear map at real positions, with the 1 of a bias."""
    network, _ = tiny()
    found: dict[str, list[Tensor]] = {}
    batch = examples.batch(range(len(examples)))
    real = batch["attention_mask"].bool()
    handles = [
        module.register_forward_hook(
            lambda m, args, z, n=name: found.setdefault(n, []).append(args[0][real])
        )
        for name, module in network.module.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        network(batch)
    for handle in handles:
        handle.remove()
    joined = {name: torch.cat(each) for name, each in found.items()}
    return {
        name: x
        if network.module.get_submodule(name).bias is None
        else torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        for name, x in joined.items()
    }


def sums(artifact: Artifact) -> dict[str, Tensor]:
    """``Σ a aᵀ`` as it is restored from the means and the counts."""
    return {
        name: block.positions * artifact.factors[block.inputs[0]].to_dense()
        for name, block in artifact.blocks.items()
        if block.inputs and block.positions is not None
    }


def inputs(seed: int = 0, count: int = 6, **options: Any) -> Artifact:
    network, _ = tiny()
    return compute(network, data(seed, count), estimator=Inputs(), **options)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_is_the_mean_over_real_positions(batch_size: int) -> None:
    artifact = inputs(batch_size=batch_size)
    wanted = rows(data(0, 6))
    assert {n for n in artifact.blocks if n != "table"} == set(wanted)
    for name, x in wanted.items():
        block = artifact.blocks[name]
        assert isinstance(block, InputsBlock)
        assert block.positions == len(x)
        A = artifact.factors[block.inputs[0]].to_dense()
        torch.testing.assert_close(A, x.mT @ x / len(x))
    table = artifact.blocks["table"]
    ids, counts = data(0, 6).tensors["ids"].unique(return_counts=True)
    share = artifact.factors[table.inputs[0]].diagonal() * table.positions
    torch.testing.assert_close(share[ids[1:]], counts[1:].double())


@pytest.mark.parametrize("estimator", COUNTED, ids=lambda e: e.name)
def test_every_estimator_counts_the_positions(estimator: Any) -> None:
    network, _ = tiny()
    artifact = compute(network, data(0, 6), estimator=estimator)
    for name, x in rows(data(0, 6)).items():
        assert artifact.blocks[name].positions == len(x)
    if estimator.name in {"kfac", "inputs"}:
        restored = sums(artifact)
        for name, x in rows(data(0, 6)).items():
            torch.testing.assert_close(restored[name], x.mT @ x)


def test_reduced_inputs_count_examples() -> None:
    network, _ = tiny()
    artifact = compute(network, data(0, 6), estimator=KfacReduce())
    assert artifact.blocks["first"].positions == 6


def test_nothing_is_pulled_back() -> None:
    class Barrier(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *g: Tensor) -> Any:
            seen.append(1)
            return g[0]

    seen: list[int] = []
    wall: Any = Barrier.apply
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)).double()
    f = OutputMap(NamedConfig("f"), lambda m, b: wall(m(b["x"])))
    network = Network(model, f, "wall")
    x = torch.randn(8, 3, dtype=torch.float64)
    artifact = compute(
        network, TensorExamples({"x": x}, "x"), estimator=Inputs(), batch_size=1
    )
    proving = len(seen)
    seen.clear()
    compute(network, TensorExamples({"x": x}, "x"), batch_size=1)
    assert proving == len(seen) - 8  # the proof of coverage alone
    reason = artifact.provenance.uncovered["1.weight"]
    assert "no linear map" in reason
    source = artifact.provenance.sources[0]
    assert (source.cotangents.name, source.cotangents.draws) == ("none", None)


def test_of_no_linear_map_nothing_is_left() -> None:
    f = OutputMap(NamedConfig("f"), lambda m, b: m(b["x"]))
    network = Network(nn.LayerNorm(3).double(), f, "norm")
    x = TensorExamples({"x": torch.randn(8, 3, dtype=torch.float64)}, "x")
    with pytest.raises(CoverageError):
        compute(network, x, estimator=Inputs())


def test_the_penalty_is_that_of_the_identity(tmp_path: Path) -> None:
    artifact = inputs()
    change = tau(shapes=artifact.parameters)
    total = torch.zeros((), dtype=torch.float64)
    for block in artifact.blocks.values():
        W = block.gather(change)
        A = artifact.factors[block.inputs[0]].to_dense()
        w = W.reshape(-1)
        eye = torch.eye(len(W), dtype=torch.float64)
        total = total + w @ torch.kron(eye, A) @ w
    torch.testing.assert_close(KfacPenalty(artifact)(change), total)
    torch.testing.assert_close(artifact.drift(change), total)
    operator = CurvatureOperator(artifact, damping=0.1)
    x = operator.join(change)
    torch.testing.assert_close(x @ operator.matvec(x) - 0.1 * x @ x, total)
    torch.testing.assert_close(operator.inverse().matvec(operator.matvec(x)), x)


def test_it_is_saved_compressed_and_shown(tmp_path: Path) -> None:
    save_artifact(inputs(), tmp_path / "own", storage="float32")
    own = load_artifact(tmp_path / "own")
    assert own.blocks == inputs().blocks
    assert all(finding.good for finding in verify(tmp_path / "own"))
    save_artifact(own, tmp_path / "small", recipe="low-rank-2+int8")
    small = load_artifact(tmp_path / "small")
    assert small.blocks == own.blocks
    report = compression_report(own, small)
    for module in report.modules:
        A, B = (
            each.factors[each.blocks[module.name].inputs[0]].to_dense()
            for each in (own, small)
        )
        lost = (B - A).norm() / A.norm()
        assert module.error == pytest.approx(float(lost), rel=1e-3)
    assert "inputs" in kfac("inspect", tmp_path / "own").output
    told = kfac("inspect", tmp_path / "own", "--json").output
    assert '"positions": 24' in told


def test_it_is_measured_and_planned() -> None:
    network, _ = tiny()
    artifact = inputs()
    found = fidelity(artifact, network, data(3, 6), draws=None, directions=1)
    assert {module.kind for module in found.modules} == {"inputs"}
    from kfac_artifacts.estimate import Effort

    batch = data(0, 6).batch([0, 1])
    planned = plan(network, batch, effort=Effort(8, estimator=Inputs()))
    usual = plan(network, batch, effort=Effort(8))
    assert planned.flops is not None
    assert usual.flops is not None
    assert (planned.flops.backward, planned.flops.outputs) == (0, 0)
    assert planned.flops.inputs == usual.flops.inputs
    assert planned.storages["float32"] < usual.storages["float32"]


@pytest.mark.parametrize("estimator", [Kfac(), Inputs()], ids=lambda e: e.name)
def test_weighed_by_positions_sums_are_those_of_all_tasks(estimator: Any) -> None:
    network, _ = tiny()
    parts = [
        compute(network, data(seed, count), estimator=estimator)
        for seed, count in enumerate((4, 9, 6))
    ]
    total = merge(parts, weighting="positions")
    assert total.provenance.weighting == "positions"
    wanted = [rows(data(seed, count)) for seed, count in enumerate((4, 9, 6))]
    for name, restored in sums(total).items():
        if name != "table":
            x = torch.cat([each[name] for each in wanted])
            assert total.blocks[name].positions == len(x)
            torch.testing.assert_close(restored, x.mT @ x)
    again = merge([merge(parts[:2], weighting="positions"), parts[2]])
    for name, restored in sums(total).items():
        torch.testing.assert_close(sums(again)[name], restored)
    left = merge([total], exclude=[parts[1]])
    expected = merge([parts[0], parts[2]], weighting="positions")
    for name, restored in sums(expected).items():
        torch.testing.assert_close(sums(left)[name], restored)
        assert left.blocks[name].positions == expected.blocks[name].positions


def test_errors_of_merging_by_positions_are_those_of_the_matrices() -> None:
    network, _ = tiny()
    parts = [compute(network, data(s, n)) for s, n in enumerate((4, 9))]
    total = merge(parts, weighting="positions")
    assert merge_errors(parts, weighting="positions") == total.provenance.merge_errors
    for name, error in total.provenance.merge_errors.items():
        target = sum(
            n / 13 * dense_block(part, name)
            for n, part in zip((4, 9), parts, strict=True)
        )
        lost = (dense_block(total, name) / 2 - target).norm() / target.norm()
        assert error.relative == pytest.approx(float(lost), rel=1e-6)
        assert error.bound >= error.relative


def test_by_size_inputs_are_weighed_by_the_sizes() -> None:
    parts = [inputs(0, 4), inputs(1, 9)]
    total = merge(parts)
    assert total.provenance.merge_errors == {}
    A = sum(
        n / 13 * part.factors["first.A"].to_dense()
        for n, part in zip((4, 9), parts, strict=True)
    )
    torch.testing.assert_close(total.factors["first.A"].to_dense(), A)
    change = tau(shapes=total.parameters)
    mean = sum(n / 13 * p.drift(change) for n, p in zip((4, 9), parts, strict=True))
    torch.testing.assert_close(total.drift(change), mean)


def test_weightings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    parts = [inputs(seed, 4) for seed in range(4)]
    by_size = merge(parts[:2])
    by_positions = merge(parts[2:], weighting="positions")
    with pytest.raises(MismatchError, match="weighed by positions, and by size here"):
        merge([by_size, by_positions])
    with pytest.raises(MismatchError, match="weighed by size, and by positions here"):
        merge([by_size, parts[2]], weighting="positions")
    with pytest.raises(SettingsError, match="no weighting 'tokens'"):
        merge(parts, weighting="tokens")
    from dataclasses import replace

    bare = replace(
        parts[0],
        blocks={n: b.with_positions(None) for n, b in parts[0].blocks.items()},
    )
    with pytest.raises(MismatchError, match="does not say of how many positions"):
        merge([bare, parts[1]], weighting="positions")
    assert merge([bare, parts[1]]).blocks["first"].positions is None
    wrong = replace(bare, provenance=replace(bare.provenance, weighting="positions"))
    with pytest.raises(FormatError, match="weighting by positions, which a block"):
        save_artifact(wrong, tmp_path / "wrong")


def test_an_expert_that_nothing_reached_has_no_positions() -> None:
    module = models.tiny("gpt-oss", dtype=torch.float32)
    with torch.no_grad():
        module.get_submodule("layers.0.mlp.router").bias[3] = -1000
    from tests.capture.test_text_models import mean_pool

    used = Network(module, OutputMap(NamedConfig("f"), mean_pool), "gpt-oss")
    batch = {k: torch.cat([v, v.flip(0)]) for k, v in models.text_batch().items()}
    one = compute(used, TensorExamples(batch, "six"), estimator=Inputs())
    other = compute(used, TensorExamples(batch, "seven"), estimator=Inputs())
    name = "layers.0.mlp.experts.down_proj.3"
    assert one.blocks[name].positions == 0
    total = merge([one, other], weighting="positions")
    assert total.blocks[name].positions == 0
    assert not total.factors[total.blocks[name].inputs[0]].to_dense().any()


def test_cotangents_do_not_go_with_it(tmp_path: Path) -> None:
    done = kfac(
        "compute",
        "model",
        "data.csv",
        "-o",
        tmp_path / "a",
        "--estimator",
        "inputs",
        "--draws",
        "2",
    )
    assert done.exit_code == 2
    assert "goes forward only" in done.output
    words = ("compute", "model", "data.csv", "-o", tmp_path / "a", "--means")
    done = kfac(*words, "--engine", "curvlinops")
    assert done.exit_code == 2
    assert "does not go with --engine curvlinops" in done.output


@pytest.mark.parametrize("estimator", [Kfac(), Inputs()], ids=lambda e: e.name)
def test_means_are_kept_where_there_is_no_bias(estimator: Any, tmp_path: Path) -> None:
    network, _ = tiny()
    plain, kept = (
        compute(network, data(0, 6), estimator=estimator, means=means)
        for means in (False, True)
    )
    assert not plain.blocks["last"].constant  # type: ignore[attr-defined]
    x = rows(data(0, 6))["last"]
    A = kept.factors["last.A"].to_dense()
    torch.testing.assert_close(A[:-1, -1], x.mean(0))
    torch.testing.assert_close(A[:-1, :-1], plain.factors["last.A"].to_dense())
    change = tau(shapes=kept.parameters)
    torch.testing.assert_close(kept.drift(change), plain.drift(change))
    torch.testing.assert_close(KfacPenalty(kept)(change), KfacPenalty(plain)(change))
    one, other = (CurvatureOperator(a, damping=0.1) for a in (kept, plain))
    vector = one.join(change)
    torch.testing.assert_close(
        one.inverse().matvec(vector), other.inverse().matvec(vector)
    )
    measured = [
        fidelity(a, network, data(3, 6), draws=None, directions=1)
        for a in (kept, plain)
    ]
    assert measured[0].total.error == pytest.approx(measured[1].total.error)
    save_artifact(kept, tmp_path / "own", storage="float32")
    own = load_artifact(tmp_path / "own")
    assert own.blocks == kept.blocks
    assert all(finding.good for finding in verify(tmp_path / "own"))
    single = {name: value.float() for name, value in change.items()}
    for recipe in ("low-rank-2+int8", "block-2", "int8"):
        save_artifact(own, tmp_path / recipe, recipe=recipe)
        small = load_artifact(tmp_path / recipe)
        assert compression_report(own, small).error < 1
        expected = float(KfacPenalty(small)(single))
        assert float(small.drift(single)) == pytest.approx(expected, rel=1e-4)
    second = compute(network, data(1, 9), estimator=estimator, means=True)
    total = merge([kept, second], weighting="positions")
    both = torch.cat([rows(data(s, n))["last"] for s, n in ((0, 6), (1, 9))])
    mean = total.factors["last.A"].to_dense()[:-1, -1]
    torch.testing.assert_close(mean, both.mean(0))


@pytest.mark.parametrize("estimator", [Kfac(), Inputs()])
def test_means_are_planned(estimator: Kfac | Inputs) -> None:
    network, _ = tiny()
    examples = data(0, 6)
    artifact = compute(network, examples, estimator=estimator, means=True)
    effort = Effort(estimator=estimator)
    batch = examples.batch(range(6))
    found = plan(network, batch, means=True, effort=effort)
    assert {b.name: b.block for b in found.blocks} == uncounted(artifact)
    dims = {name: dim for block in found.blocks for name, dim in block.dims.items()}
    assert dims == {name: factor.dim for name, factor in artifact.factors.items()}
    with pytest.raises(SettingsError, match="nearest keeps no means"):
        plan(network, batch, means=True, effort=Effort(estimator=Nearest()))


def test_other_estimators_keep_no_means() -> None:
    network, _ = tiny()
    with pytest.raises(SettingsError, match="nearest keeps no means"):
        compute(network, data(0, 6), estimator=Nearest(), means=True)


def test_a_layer_without_a_bias_shares_the_inputs_of_one_with_it() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(3, 2), nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.q(x), self.k(x)], dim=1)

    torch.manual_seed(0)
    f = OutputMap(NamedConfig("f"), lambda m, b: m(b["x"]))
    network = Network(Pair().double(), f, "pair")
    x = TensorExamples({"x": torch.randn(8, 3, dtype=torch.float64)}, "x")
    artifact = compute(network, x, estimator=Inputs(), means=True)
    assert artifact.blocks["k"].inputs == artifact.blocks["q"].inputs == ("q.A",)
