"""An estimator of one's own: a class and a line in the table, and nothing else."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

import kfac_artifacts as kfac
from kfac_artifacts.capture.run import Run
from kfac_artifacts.choices import ESTIMATORS
from kfac_artifacts.errors import KfacError, SettingsError
from kfac_artifacts.estimate import Cost, Effort, Estimate, checkpointing
from kfac_artifacts.factors import Dense
from tests.computed import compute, plan


@dataclass(frozen=True)
class Scaled(kfac.Estimator):
    """KFAC times a number: what a newcomer may write."""

    name = "scaled"
    cost = Cost(recorded=True, uncounted="the scaling")

    by: float = 2.0

    @override
    def check(self, examples: int) -> None:
        if self.by <= 0:
            raise SettingsError("by must be positive")

    @override
    def refine(self, run: Run, found: Estimate) -> Iterator[None]:
        for name, block in found.blocks.items():
            if name not in found.finished:
                *rest, last = block.factors
                found.factors |= {each: found.start[each] for each in rest}
                found.factors[last] = Dense(self.by * found.start[last].to_dense())
                found.finished.append(name)
                yield

    @override
    def described(self, found: Estimate) -> kfac.NamedConfig:
        return kfac.NamedConfig(self.name, {"by": self.by})


@pytest.fixture(autouse=True)
def in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own")
    module.Scaled = Scaled  # type: ignore[attr-defined]
    place = "estimate.estimators.own"
    monkeypatch.setitem(sys.modules, f"kfac_artifacts.{place}", module)
    monkeypatch.setitem(ESTIMATORS._places, "scaled", f"{place}:Scaled")


def tiny() -> tuple[kfac.Network, kfac.TensorExamples]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2))
    output_map = kfac.OutputMap(kfac.NamedConfig("f"), lambda m, b: m(b["x"]))
    examples = kfac.TensorExamples({"x": torch.randn(8, 3)}, "x")
    return kfac.Network(module.double(), output_map, "tiny"), Doubles(examples.tensors)


class Doubles(kfac.TensorExamples):
    def __init__(self, tensors: Any) -> None:
        super().__init__({n: t.double() for n, t in tensors.items()}, "x")


def test_it_computes_and_its_artifact_is_written_and_read(tmp_path: Path) -> None:
    usual = compute(*tiny())
    estimator = kfac.choose_estimator("scaled", by=3.0)
    kfac.save_artifact(compute(*tiny(), estimator=estimator), tmp_path / "own")
    found = kfac.load_artifact(tmp_path / "own")
    assert found.provenance.estimator == kfac.NamedConfig("scaled", {"by": 3.0})
    assert found.blocks == usual.blocks
    for block in found.blocks.values():
        last = block.factors[-1]
        torch.testing.assert_close(
            found.factors[last].to_dense(), 3 * usual.factors[last].to_dense().float()
        )


def test_it_is_planned() -> None:
    network, examples = tiny()
    batch = examples.batch([0, 1])
    found = plan(network, batch, effort=Effort(8, estimator=Scaled()))
    usual = plan(network, batch, effort=Effort(8))
    assert found.memory.records
    assert not usual.memory.records
    assert found.storages == usual.storages


def test_it_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same options alone."""
    options = kfac.ComputeOptions(tmp_path / "checkpoint", every=1)
    monkeypatch.setattr(checkpointing, "SHARE", float("inf"))
    with monkeypatch.context() as patch:
        patch.setattr(Scaled, "refine", interrupted(Scaled.refine))
        with pytest.raises(KeyboardInterrupt):
            compute(*tiny(), estimator=Scaled(), options=options)
    again = kfac.ComputeOptions(tmp_path / "checkpoint", resume=True)
    with pytest.raises(KfacError, match=r"estimator\.by was 2\.0, is 3\.0"):
        compute(*tiny(), estimator=Scaled(3.0), options=again)
    resumed = compute(*tiny(), estimator=Scaled(), options=again)
    whole = compute(*tiny(), estimator=Scaled())
    assert resumed.blocks == whole.blocks
    assert resumed.provenance == whole.provenance
    for name, factor in whole.factors.items():
        assert torch.equal(resumed.factors[name].to_dense(), factor.to_dense())


def interrupted(refine: Any) -> Any:
    def of(self: Any, run: Any, found: Any) -> Iterator[Any]:
        steps = refine(self, run, found)
        yield next(steps)
        yield next(steps)
        raise KeyboardInterrupt

    return of


def test_its_options_are_checked() -> None:
    with pytest.raises(SettingsError, match="must be positive"):
        compute(*tiny(), estimator=Scaled(-1.0))
    with pytest.raises(SettingsError, match="by does not go with kfac, but with sc"):
        kfac.choose_estimator("kfac", by=1.0)


def test_curvlinops_says_that_it_has_none_of_that_name() -> None:
    pytest.importorskip("curvlinops")
    with pytest.raises(SettingsError, match=r"no estimator 'scaled'; choose from \("):
        kfac.compute_with_curvlinops(*tiny(), estimator=Scaled())
