"""The diagonal of the Gramian, against brute force."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import (
    Artifact,
    Cotangents,
    DiagonalBlock,
    GramianBlock,
    Layout,
    NamedConfig,
)
from kfac_artifacts.compress import compression_report, save_artifact
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.estimate import DiagonalGramian, Effort, Kfac
from kfac_artifacts.factors import Diagonal
from kfac_artifacts.fidelity import fidelity
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests import models
from tests.artifacts import tau
from tests.brute_force import EXACT, jacobians
from tests.capture.test_text_models import mean_pool
from tests.commands import kfac
from tests.computed import compute, plan
from tests.estimate.test_nearest import tiny

LARGE = 1200


class Mixed(nn.Module):
    """A convolution, norms, a table, a map that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv1d(3, 4, 2)
        self.norm, self.twice = nn.LayerNorm(4), nn.Linear(4, 4)
        self.table, self.last = nn.Embedding(5, 4), nn.Linear(4, 2, bias=False)

    def forward(self, x: Any, ids: Any) -> Any:
        z = self.norm(self.patch(x).mT) + self.table(ids)
        z = torch.tanh(self.twice(torch.tanh(self.twice(z))))
        return self.last(z).sum(1)


def mixed() -> tuple[Network, TensorExamples]:
    torch.manual_seed(0)
    f = OutputMap(NamedConfig("f"), lambda m, b: m(b["x"], b["ids"]))
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    data = TensorExamples({"x": x, "ids": torch.randint(5, (6, 4))}, "mixed")
    return Network(Mixed().double(), f, "mixed"), data


def diagonal(artifact: Artifact) -> dict[str, Tensor]:
    """What it says of every parameter, in its shape."""
    operator = CurvatureOperator(artifact)
    return operator.split(operator.diagonal())


def wanted(network: Network, examples: TensorExamples) -> dict[str, Tensor]:
    J = jacobians(network, examples.batch(range(len(examples))))
    return {n: each.square().sum((0, 1)) / len(examples) for n, each in J.items()}


@pytest.mark.parametrize("batch_size", [2, 32])
@pytest.mark.parametrize("made", [tiny, mixed])
def test_it_is_the_diagonal_of_the_gramian(made: Any, batch_size: int) -> None:
    network, examples = made()
    artifact = compute(
        network,
        examples,
        cotangents=EXACT,
        estimator=DiagonalGramian(),
        batch_size=batch_size,
    )
    found, expected = diagonal(artifact), wanted(network, examples)
    assert set(found) == set(expected)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], msg=name)
    kinds = {type(block) for block in artifact.blocks.values()}
    assert kinds <= {DiagonalBlock, GramianBlock}
    assert all(isinstance(f, Diagonal) for f in artifact.factors.values())


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_experts_have_a_part_each(kind: str) -> None:
    module = models.tiny(kind, dtype=torch.float64)
    network = Network(module, OutputMap(NamedConfig("f"), mean_pool), kind)
    examples = TensorExamples(models.text_batch(), "texts")
    artifact = compute(network, examples, cotangents=EXACT, estimator=DiagonalGramian())
    assert any(block.part for block in artifact.blocks.values())
    found, expected = diagonal(artifact), wanted(network, examples)
    for name, values in found.items():
        torch.testing.assert_close(
            values, expected[name], rtol=1e-6, atol=1e-8, msg=name
        )


def test_draws_give_the_same_in_the_mean() -> None:
    network, examples = tiny()
    drawn = compute(
        network,
        examples,
        cotangents=Cotangents("orthogonal", 2000, 0),
        estimator=DiagonalGramian(),
    )
    for name, values in wanted(network, examples).items():
        found = diagonal(drawn)[name]
        assert (found - values).norm() < 0.05 * values.norm(), name


def test_it_is_kept_used_merged_and_compressed(tmp_path: Path) -> None:
    network, examples = mixed()
    whole = compute(network, examples, estimator=DiagonalGramian())
    change = tau(shapes=whole.parameters)
    values = diagonal(whole)
    expected = sum((values[n] * t.square()).sum() for n, t in change.items())
    torch.testing.assert_close(whole.drift(change), expected)
    torch.testing.assert_close(KfacPenalty(whole)(change), expected)
    operator = CurvatureOperator(whole, damping=0.1)
    again = operator.inverse().matvec(operator.matvec(change))
    for name, value in change.items():
        torch.testing.assert_close(again[name], value)
    save_artifact(whole, tmp_path / "own", storage="float32")
    opened = load_artifact(tmp_path / "own")
    assert opened.blocks == whole.blocks
    assert all(finding.good for finding in verify(tmp_path / "own"))
    assert "diagonal" in kfac("inspect", tmp_path / "own").output
    save_artifact(opened, tmp_path / "small", recipe="tiny")
    report = compression_report(opened, load_artifact(tmp_path / "small"))
    assert 0 < report.error < 0.02
    other = compute(
        network,
        TensorExamples({n: t[:3] for n, t in examples.tensors.items()}, "half"),
        estimator=DiagonalGramian(),
    )
    total = merge([whole, other])
    assert total.provenance.merge_errors == {}
    mean = (6 * whole.drift(change) + 3 * other.drift(change)) / 9
    torch.testing.assert_close(total.drift(change), mean)
    left = merge([total], exclude=[other])
    torch.testing.assert_close(left.drift(change), whole.drift(change))


def test_it_is_measured_against_the_gramian() -> None:
    network, examples = tiny()
    artifact = compute(network, examples, cotangents=EXACT, estimator=DiagonalGramian())
    kronecker = compute(network, examples, cotangents=EXACT)
    one, other = (
        fidelity(a, network, tiny(9)[1], draws=None, directions=0)
        for a in (artifact, kronecker)
    )
    assert one.total.norm == pytest.approx(other.total.norm)
    values = sum(v.square().sum() for v in diagonal(artifact).values())
    assert one.total.predicted_norm**2 == pytest.approx(float(values))


def test_nothing_of_the_size_of_the_square_is_formed(tmp_path: Path) -> None:
    """The Gramian of this map would have 2 · 10^12 entries."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(LARGE, LARGE), nn.Tanh(), nn.Linear(LARGE, 2))
    f = OutputMap(NamedConfig("f"), lambda m, b: m(b["x"]))
    network = Network(model, f, "large")
    parts = [
        compute(
            network,
            TensorExamples({"x": torch.randn(4, LARGE)}, f"{seed}"),
            estimator=DiagonalGramian(),
        )
        for seed in range(2)
    ]
    total = merge(parts)
    save_artifact(total, tmp_path / "total")
    assert all(finding.good for finding in verify(tmp_path / "total"))
    change = {n: torch.ones(s) for n, s in total.parameters.items()}
    torch.testing.assert_close(KfacPenalty(total)(change), total.drift(change))
    assert CurvatureOperator(total).logdet(1.0) > 0
    held_out = TensorExamples({"x": torch.randn(5, LARGE)}, "held out")
    assert fidelity(parts[0], network, held_out, directions=1).total.norm > 0


def test_it_is_planned() -> None:
    network, examples = mixed()
    batch = examples.batch([0, 1])
    found, usual = (
        plan(network, batch, effort=Effort(8, estimator=estimator))
        for estimator in (DiagonalGramian(), Kfac())
    )
    artifact = compute(network, examples, estimator=DiagonalGramian())
    assert {b.name: b.block for b in found.blocks} == artifact.blocks
    assert found.storages["float32"] == sum(
        4 * factor.dim for factor in artifact.factors.values()
    )
    assert usual.flops is not None
    assert found.flops is not None
    assert found.flops.inputs == 0


def test_values_that_do_not_fit_are_refused() -> None:
    """Nearly as many as there are entries, too: 13 for 3 x 5 would be 4 a row."""
    block = DiagonalBlock("w", None, Layout.ROWS, (("S",),))
    for count in (13, 16, 30):
        with pytest.raises(FactorError, match=rf"need \[1, {count}\]"):
            block.product(torch.zeros(3, 5), {"S": Diagonal(torch.ones(count))})


def test_a_factor_that_is_not_diagonal_is_refused(tmp_path: Path) -> None:
    import json

    network, examples = tiny()
    whole = compute(network, examples, estimator=DiagonalGramian())
    save_artifact(whole, tmp_path / "own")
    path = tmp_path / "own" / "kfac.json"
    manifest = json.loads(path.read_text())
    manifest["factors"]["first.S"]["structure"] = {"name": "dense", "configuration": {}}
    path.write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=r"'first\.S' must be diagonal, not dense"):
        load_artifact(tmp_path / "own")
