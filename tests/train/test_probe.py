"""λ chosen by a few steps: against the definition written out, in any units."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Network, OutputMap
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.task_vector import ClassifierHead, LinearHead, TaskVector
from kfac_artifacts.train import (
    Penalty,
    PenaltySettings,
    TrainingProgress,
    TrainingTask,
    TrainSettings,
    choose_regime,
    train,
)
from tests.tiny_task import (
    CLASSES,
    SETTINGS,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
    train_tiny,
)

DOUBLE = torch.float64
AUTO = PenaltySettings("auto")


def test_lambda_is_half_the_curvature_of_the_own_loss_per_drift() -> None:
    """With the Hessian of the loss in f by autograd, in the place of the formula."""
    network = tiny_network(DOUBLE)
    task, others = tiny_task(network, 1, DOUBLE), tiny_points(2, DOUBLE)
    curvature = tiny_curvature(network, others)
    settings = replace(SETTINGS, penalty=AUTO, warmup=3)
    found = train(network, task, settings, curvature=curvature).settings
    # eight steps of the same schedule, stopped there
    stopped = _after(network, task, replace(settings, penalty=PenaltySettings(0.0)), 8)
    tau = {n: t.double() for n, t in stopped.items()}
    drift = float(KfacPenalty(curvature)(tau))
    batch = task.examples.batch(range(36))
    output, change = jvp(network, tau, batch)
    head: Any = task.head
    curved = []
    for x, c in zip(output, change, strict=True):
        logits = head.logits(x[None])[0]
        slope = torch.func.jvp(lambda f: head.logits(f[None])[0], (x,), (c,))[1]
        hessian = torch.func.hessian(lambda z: cross_entropy(z, torch.tensor(0)))(
            logits
        )
        curved.append(slope @ hessian @ slope)
    expected = float(torch.stack(curved).mean()) / (2 * drift)
    assert found["lam"] == pytest.approx(expected, rel=1e-5)
    by: Any = found["lam_by"]
    assert by["steps"] == 8
    assert by["drift"] == pytest.approx(drift, rel=1e-5)
    targets = head.targets(task.examples)
    assert by["loss"] == pytest.approx(
        float(cross_entropy(head.logits(output), targets))
    )
    moved = cross_entropy(head.logits(output + change), targets)
    assert by["loss_after"] == pytest.approx(float(moved), rel=1e-5)


def _after(
    network: Network, task: TrainingTask, settings: TrainSettings, steps: int
) -> dict[str, Tensor]:
    """Where a training of more steps is after some of them."""
    kept: list[dict[str, Tensor]] = []
    made: list[Any] = []

    def regime(network: Network, names: Any) -> Any:
        made.append(choose_regime("linearised")(network, names))
        return made[0]

    def report(progress: TrainingProgress) -> None:
        if progress.step == steps:
            kept.append({n: t.detach().clone() for n, t in made[0].tau().items()})

    curvature = tiny_curvature(network, tiny_points(2, DOUBLE))
    train(network, task, settings, curvature=curvature, regime=regime, report=report)
    return kept[0]


def test_training_after_the_choice_is_that_with_the_number() -> None:
    """The probe leaves nothing behind: not in τ, and not in the optimiser."""
    chosen = train_tiny(penalty=AUTO)
    weight: Any = chosen.settings["lam"]
    given = train_tiny(penalty=PenaltySettings(weight))
    assert "lam_by" not in given.settings
    for name, change in chosen.tensors.items():
        assert torch.equal(change, given.tensors[name])
    assert chosen.metrics == given.metrics


@pytest.mark.parametrize("regime", ["ordinary", "lora", "talos", "delta"])
def test_every_regime_is_put_back(regime: str) -> None:
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    known = {"curvature": tiny_curvature(network, tiny_points(2)), "regime": regime}
    settings = replace(SETTINGS, steps=12)
    chosen = train(network, task, replace(settings, penalty=AUTO), **known)
    weight: Any = chosen.settings["lam"]
    given = replace(settings, penalty=PenaltySettings(weight))
    assert chosen.metrics == train(network, task, given, **known).metrics


def _in_units(unit: float) -> TaskVector:
    """Train the same with f in other units, under a head that undoes them."""
    plain = tiny_network(DOUBLE)
    f = OutputMap(
        NamedConfig("scaled"), lambda m, b: unit * plain.output_map.apply(m, b)
    )
    network = Network(plain.module, f, "tiny")
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(3, 5, generator=generator, dtype=DOUBLE)
    head = LinearHead(8 * rows / unit, torch.zeros(3, dtype=DOUBLE), CLASSES)
    task = TrainingTask(tiny_points(1, DOUBLE), head)
    curvature = tiny_curvature(network, tiny_points(2, DOUBLE))
    settings = replace(SETTINGS, penalty=AUTO, steps=40)
    return train(network, task, settings, curvature=curvature)


@pytest.mark.parametrize("unit", [0.01, 100.0])
def test_other_units_of_f_give_the_same_training(unit: float) -> None:
    """The drift is in the square of the unit, so that a fixed λ would mean another."""
    one, other = _in_units(1.0), _in_units(unit)
    for name, change in one.tensors.items():
        torch.testing.assert_close(change, other.tensors[name], rtol=1e-3, atol=1e-5)
    weights: Any = [vector.settings["lam"] for vector in (one, other)]
    assert weights[1] / weights[0] == pytest.approx(unit**-2, rel=1e-4)


@pytest.mark.parametrize("step", [3, 60])
def test_a_run_that_was_cut_off_goes_on_with_its_lambda(
    tmp_path: Path, step: int
) -> None:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == step and not progress.resumed:
            raise KeyboardInterrupt

    whole = train_tiny(penalty=AUTO)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(penalty=AUTO, output=tmp_path / "cut", report=stop)
    train_tiny(penalty=AUTO, output=tmp_path / "cut", resume=True)
    cut = TaskVector.load(tmp_path / "cut")
    assert cut.settings == whole.settings
    assert cut.metrics == whole.metrics


class Nothing(Penalty):
    """A penalty that is always 0."""

    def __call__(self, tau: Any) -> Tensor:
        return torch.stack([0 * change.sum() for change in tau.values()]).sum()

    def describe(self) -> dict[str, Any]:
        return {}


def test_where_no_lambda_follows_a_number_is_asked_for() -> None:
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    settings = replace(SETTINGS, penalty=AUTO)
    with pytest.raises(SettingsError, match="give a number"):
        train(network, task, settings, penalty=Nothing())
    rows = torch.eye(3, 5)
    sure = ClassifierHead(rows, CLASSES, logit_scale=0.0)
    known = {"curvature": tiny_curvature(network, tiny_points(2))}
    with pytest.raises(SettingsError, match="give a number"):
        train(network, TrainingTask(task.examples, sure), settings, **known)
    with pytest.raises(SettingsError, match="not chosen yet"):
        AUTO.factor(0)
