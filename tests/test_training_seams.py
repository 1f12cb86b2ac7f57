"""A regime and a penalty of one's own go through training as those of the package."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.choices import PENALTIES, PENALTY_NEEDS, REGIME_SETTINGS, REGIMES
from kfac_artifacts.errors import CoverageError, MismatchError, SettingsError
from kfac_artifacts.network import Network
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import (
    Others,
    Penalty,
    PenaltySettings,
    Regime,
    TrainingProgress,
    TrainSettings,
    choose_regime,
    train,
)
from tests.estimate.processes import finish, start
from tests.tiny_task import (
    SETTINGS,
    LabelledPoints,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
)

HELD = replace(SETTINGS, penalty=PenaltySettings(0.01))


class LowRank(Regime):
    """``θ0 + B A`` of the weights: τ is a function of other parameters."""

    mode = "plain"

    def __init__(self, network: Network, names: Any, rank: int = 2) -> None:
        matrices = [n for n in names if len(network.shapes[n]) == 2]
        super().__init__(network, matrices)
        self.left, self.right = nn.ParameterList(), nn.ParameterList()
        generator = torch.Generator().manual_seed(0)
        for d_out, d_in in (network.shapes[n] for n in matrices):
            self.left.append(torch.zeros(d_out, rank))
            self.right.append(torch.randn(rank, d_in, generator=generator))

    def tau(self) -> dict[str, Tensor]:
        products = (B @ A for B, A in zip(self.left, self.right, strict=True))
        return dict(zip(self.names, products, strict=True))

    def forward(self, batch: Any) -> Tensor:
        start = self.network.parameters()
        moved = {name: start[name] + change for name, change in self.tau().items()}
        return self.network.functional_call(moved, batch)

    def describe(self) -> dict[str, Any]:
        return {"regime": {"name": "low-rank", "rank": self.left[0].shape[1]}}


class SquaredNorm(Penalty):
    """``|τ|²``, for training that may move a part of the network only."""

    covered = ("last.weight", "last.bias", "unused.weight")

    def __call__(self, tau: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([t.square().sum() for t in tau.values()]).sum()

    def describe(self) -> dict[str, Any]:
        return {"penalty": {"name": "squared-norm"}}


def in_parts(count: int) -> TrainSettings:
    """Steps in parts, over batches that two processes cannot share evenly."""
    return replace(HELD, batch_size=7, accumulate=count)


def run(settings: TrainSettings = HELD, **how: Any) -> TaskVector:
    network = tiny_network()
    if how.pop("curved", False):
        how["curvature"] = tiny_curvature(network, tiny_points(2))
    return train(network, tiny_task(network, 1, torch.float32), settings, **how)


def measured(vector: TaskVector) -> dict[str, Any]:
    return dict(vector.metrics)


def test_a_regime_of_ones_own_learns_and_says_what_it_is() -> None:
    vector = run(regime=LowRank)
    assert set(vector.tensors) == {"first.weight", "last.weight"}
    assert all(torch.linalg.matrix_rank(t) <= 2 for t in vector.tensors.values())
    held_out = measured(vector)["held_out"]
    assert held_out["plain"] > held_out["pretrained"]
    assert vector.settings["regime"] == {"name": "low-rank", "rank": 2}


def test_its_task_vector_acts_as_it_was_measured() -> None:
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    vector = train(network, task, HELD, regime=LowRank)
    vector.apply(network)
    answers = task.head.logits(network(task.examples.batch(range(36)))).argmax(-1)
    right = int((answers == task.head.targets(task.examples)).sum())
    assert right / 36 == measured(vector)["held_out"]["plain"]


def test_the_penalty_reaches_the_parameters_of_any_regime() -> None:
    weak, strong = (
        run(replace(HELD, penalty=PenaltySettings(w)), regime=LowRank, curved=True)
        for w in (0.0, 10.0)
    )
    assert measured(strong)["penalty"] < 0.2 * measured(weak)["penalty"]


REGIMES_ALL = [*(name for name in REGIMES if name != "attention"), LowRank]


@pytest.mark.parametrize("regime", REGIMES_ALL)
def test_every_regime_begins_at_the_pretrained_network(regime: Any) -> None:
    network = tiny_network()
    names = ("first.weight", "last.weight", "last.bias")
    made = (REGIMES[regime] if isinstance(regime, str) else regime)(network, names)
    batch = tiny_points(1).batch(range(5))
    before = network(batch)
    assert set(made.tau()) <= set(names)
    assert not any(change.any() for change in made.tau().values())
    torch.testing.assert_close(made(batch), before)
    made(batch).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in made.parameters())


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_pulls_nowhere_where_nothing_has_changed(name: str) -> None:
    network, names = tiny_network(), ("first.weight", "last.weight")
    curvature = tiny_curvature(network, tiny_points(2))
    known = {"curvatures": (curvature,), "examples": (tiny_points(2),)}
    needed = {what: known[what] for what in PENALTIES[name].needs}
    penalty = PENALTIES[name](Others(**needed), PenaltySettings())
    penalty.check(network)
    penalty.prepare(network, names)
    shapes = {n: network.shapes[n] for n in names}
    zero = {n: torch.zeros(s, requires_grad=True) for n, s in shapes.items()}
    moved = {n: torch.ones(s, requires_grad=True) for n, s in shapes.items()}
    penalty(zero).backward()
    for change in zero.values():
        assert change.grad is None or not change.grad.any()
    if name != "orthoreg":  # which wants changes to be of size one
        assert penalty(zero).item() == 0
    penalty(moved).backward()
    for change in moved.values():
        assert change.grad is not None
        assert change.grad.isfinite().all()
    assert penalty(moved) > 0
    json.dumps(penalty.describe())


@pytest.mark.parametrize(
    "how", [*({"regime": r} for r in REGIMES_ALL), {"penalty": SquaredNorm()}]
)
def test_an_interrupted_training_goes_on_to_the_same_numbers(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == 70:
            raise KeyboardInterrupt

    whole = run(**how)
    with pytest.raises(KeyboardInterrupt):
        run(**how, output=tmp_path / "tau", report=stop)
    seen: list[TrainingProgress] = []
    again = run(**how, output=tmp_path / "tau", resume=True, report=seen.append)
    assert seen[0].step == 50
    assert again.sha256 == whole.sha256 == TaskVector.load(tmp_path / "tau").sha256


def test_a_penalty_of_ones_own_holds_back_and_says_what_it_is() -> None:
    free = run(penalty=SquaredNorm())
    held = run(replace(HELD, penalty=PenaltySettings(10.0)), penalty=SquaredNorm())
    assert set(free.tensors) == {"last.weight", "last.bias"}
    assert measured(held)["penalty"] < 0.1 * measured(free)["penalty"]
    assert held.settings["penalty"] == {"name": "squared-norm"}
    assert held.settings["curvature"] == []
    with pytest.raises(CoverageError, match="first"):
        run(replace(HELD, modules=("first*",)), penalty=SquaredNorm())


def test_linearised_training_under_curvature_is_what_is_usual() -> None:
    usual = run(curved=True)
    named = run(curved=True, regime="linearised", penalty="kfac")
    assert usual.sha256 == named.sha256
    assert usual.settings == named.settings
    assert not {"regime", "penalty"} & usual.settings.keys()


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(SettingsError, match="not both"):
        run(curved=True, penalty=SquaredNorm())
    with pytest.raises(SettingsError, match="'kfac'"):
        run(penalty="nothing")
    with pytest.raises(SettingsError, match="'linearised'"):
        run(regime="nothing")
    with pytest.raises(CoverageError, match="LowRank trains none"):
        run(replace(HELD, modules=("last.bias",)), regime=LowRank)
    with pytest.raises(MismatchError, match="needs the curvature"):
        run(penalty="kfac")
    with pytest.raises(MismatchError, match="tau-jp needs the data"):
        run(penalty="tau-jp")
    with pytest.raises(SettingsError, match="orthoreg does not use the curvature"):
        run(penalty="orthoreg", curved=True)
    with pytest.raises(SettingsError, match="kfac does not use the data"):
        run(curved=True, others=[tiny_points(2)])
    with pytest.raises(SettingsError, match="tau-jp alone"):
        run(others=[tiny_points(2)])
    with pytest.raises(SettingsError, match="rank does not go with the regime"):
        choose_regime("ordinary", rank=2)


def test_everything_that_can_be_chosen_is_there() -> None:
    assert all(issubclass(REGIMES[name], Regime) for name in REGIMES)
    assert all(issubclass(PENALTIES[name], Penalty) for name in PENALTIES)
    for name in PENALTIES:
        needs = PENALTY_NEEDS.get(name)
        assert PENALTIES[name].needs == (() if needs is None else (needs,))
    for name in REGIMES:
        parameters = inspect.signature(REGIMES[name]).parameters.values()
        found = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        assert found == REGIME_SETTINGS.get(name, ())


def test_usual_settings_follow_from_the_examples() -> None:
    points = tiny_points(1)
    assert TrainSettings.usual(points) == TrainSettings()
    assert TrainSettings.usual(points, epochs=2.0, batch_size=6).steps == 12
    assert TrainSettings.usual(points, epochs=2.0, batch_size=6, limit=12).steps == 4
    with pytest.raises(SettingsError, match="not both"):
        TrainSettings.usual(points, steps=2, epochs=1.0)


def test_images_are_pulled_harder_to_where_they_began() -> None:
    class Images(LabelledPoints):
        def info(self, indices: Any) -> Any:
            found = super().info(indices)
            how = replace(found.preprocessing, name="image")
            return replace(found, preprocessing=how)

    points = tiny_points(1)
    images = Images(points.tensors, points.id, points.labels)
    assert TrainSettings.usual(images).weight_decay == 0.1
    assert TrainSettings.usual(images, weight_decay=0.0).weight_decay == 0.0


SCRIPT = """
import os, sys
from pathlib import Path

os.environ["ACCELERATE_USE_CPU"] = "true"
import torch
from tests.test_training_seams import LowRank, in_parts, run

for name, regime in (("linearised", "linearised"), ("low-rank", LowRank)):
    run(in_parts(2), regime=regime, curved=True, output=Path(sys.argv[1]) / name)
torch.distributed.destroy_process_group()
"""


@pytest.mark.processes
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    for status, _, stderr in finish(start(["-c", SCRIPT, str(tmp_path)])):
        assert status == 0, stderr
    for name, regime in (("linearised", "linearised"), ("low-rank", LowRank)):
        two = TaskVector.load(tmp_path / name)
        one = run(in_parts(1), regime=regime, curved=True)
        for parameter, change in one.tensors.items():
            torch.testing.assert_close(
                two.tensors[parameter], change, rtol=1e-3, atol=1e-4
            )
