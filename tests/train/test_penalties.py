"""What holds a task vector back, penalty by penalty, against formulas written out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.choices import PENALTIES
from kfac_artifacts.errors import CoverageError, MismatchError
from kfac_artifacts.linearize import jvp
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.train import Others, Penalty, PenaltySettings, train
from tests.computed import compute
from tests.tiny_task import (
    SETTINGS,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
)

DOUBLE = torch.float64
NAMES = ("first.weight", "first.bias", "norm.weight", "norm.bias")


def changes(network: Network) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        n: torch.randn(network.shapes[n], generator=generator, dtype=DOUBLE)
        .mul(0.1)
        .requires_grad_()
        for n in NAMES
    }


def made(name: str, network: Network, **known: Any) -> Penalty:
    penalty: Penalty = PENALTIES[name](Others(**known), PenaltySettings())
    penalty.prepare(network, NAMES)
    return penalty


@pytest.fixture
def network() -> Network:
    return tiny_network(DOUBLE)


@pytest.fixture
def curvatures(network: Network) -> tuple[Artifact, ...]:
    """Three tasks of different sizes."""
    return tuple(
        tiny_curvature(network, tiny_points(seed, DOUBLE, count))
        for seed, count in ((2, 12), (3, 24), (4, 36))
    )


def test_per_task_is_the_mean_of_their_drifts_by_size(
    network: Network, curvatures: Any
) -> None:
    tau = changes(network)
    penalty = made("kfac-per-task", network, curvatures=curvatures)
    drifts = torch.stack([KfacPenalty(a)(tau) for a in curvatures])
    shares = torch.tensor([12, 24, 36], dtype=DOUBLE) / 72
    torch.testing.assert_close(penalty(tau), (shares * drifts).sum())
    found: Any = penalty.describe()
    assert [source["size"] for source in found["curvature"]] == [12, 24, 36]
    assert found["penalty"] == {"name": "kfac-per-task"}


def test_of_one_task_it_is_what_the_merged_penalty_is(
    network: Network, curvatures: Any
) -> None:
    tau = changes(network)
    one = made("kfac-per-task", network, curvatures=curvatures[:1])
    same = made("kfac", network, curvatures=curvatures[:1])
    torch.testing.assert_close(one(tau), same(tau))


def test_several_curvatures_are_merged_by_kfac(
    network: Network, curvatures: Any
) -> None:
    tau = changes(network)
    found = made("kfac", network, curvatures=curvatures)(tau)
    torch.testing.assert_close(found, KfacPenalty(merge(curvatures))(tau))


def test_tasks_that_cover_something_else_are_refused(
    network: Network, curvatures: Any
) -> None:
    one, points = curvatures[0], tiny_points(5, DOUBLE)
    part = compute(network, points, exclude=("last.*",))
    with pytest.raises(MismatchError, match=r"last\.bias, last\.weight are in some"):
        PENALTIES["kfac-per-task"](Others((one, part)), PenaltySettings())


def test_orthoreg_is_the_distance_of_grams_from_the_identity(network: Network) -> None:
    tau = changes(network)
    W = tau["first.weight"]  # 6 x 4
    expected = (W.mT @ W - torch.eye(4)).square().sum().sqrt()
    found = made("orthoreg", network)(tau)
    torch.testing.assert_close(found, expected)
    wide = {"first.weight": torch.linalg.qr(torch.randn(6, 4, dtype=DOUBLE))[0].mT}
    assert float(made("orthoreg", network)(wide)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(CoverageError, match="for matrices"):
        PENALTIES["orthoreg"](Others(), PenaltySettings()).prepare(
            network, ("norm.bias",)
        )


def test_orthoreg_makes_changes_orthogonal() -> None:
    def skew(weight: float) -> float:
        settings = replace(SETTINGS, penalty=PenaltySettings(weight))
        network = tiny_network()
        task = tiny_task(network, 1, torch.float32)
        tau = train(network, task, settings, penalty="orthoreg").tensors
        W = tau["first.weight"]
        gram = W.mT @ W
        return float((gram - gram.diagonal().diag()).norm() / gram.norm())

    assert skew(1.0) < 0.5 * skew(0.0)


def test_tau_jp_is_the_drift_on_the_data_of_others(network: Network) -> None:
    points = tiny_points(2, DOUBLE, 12)
    tau = changes(network)
    penalty = made("tau-jp", network, examples=(points,))
    value = penalty(tau)
    _, change = jvp(network, tau, points.batch(range(12)))
    torch.testing.assert_close(value, change.square().sum() / 12)
    value.backward()

    def drift(moved: dict[str, Tensor]) -> Tensor:
        _, found = jvp(network, moved, points.batch(range(12)))
        return found.square().sum() / 12

    for name, t in tau.items():  # it is quadratic: central differences are exact
        direction = torch.randn(t.shape, dtype=DOUBLE)
        up, down = (
            drift({**tau, name: t.detach() + sign * direction}) for sign in (1, -1)
        )
        assert t.grad is not None
        torch.testing.assert_close((t.grad * direction).sum(), (up - down) / 2)


def test_its_batches_take_turns_and_follow_from_the_step(network: Network) -> None:
    data = (tiny_points(2, DOUBLE, 12), tiny_points(3, DOUBLE, 9))
    penalty: Any = PENALTIES["tau-jp"](
        Others((), data), PenaltySettings(), batch_size=4
    )
    seen: dict[int, list[Tensor]] = {0: [], 1: []}
    for step in range(12):
        penalty.begin(step)
        batch, count = penalty._batch()
        assert count == len(batch["x"]) == 4
        seen[step % 2].append(batch["x"])
    assert torch.equal(
        torch.cat(seen[0][:3]).unique(dim=0), data[0].tensors["x"].unique(dim=0)
    )
    assert len(torch.cat(seen[1][:2]).unique(dim=0)) == 8
    penalty.begin(4)
    assert torch.equal(penalty._batch()[0]["x"], seen[0][2])
    rare = PENALTIES["tau-jp"](Others((), data), PenaltySettings(every=5), batch_size=4)
    rare.begin(5)  # tasks have turns among the steps with a penalty
    assert torch.equal(rare._batch()[0]["x"], seen[1][0])


@pytest.mark.parametrize("name", ["kfac", "kfac-per-task", "tau-jp"])
def test_every_penalty_of_others_leaves_them_alone(name: str) -> None:
    network, others = tiny_network(), [tiny_points(2), tiny_points(3)]
    known: dict[str, Any] = {"others": others}
    if name != "tau-jp":
        known = {"curvature": [tiny_curvature(network, points) for points in others]}

    def drift(weight: float) -> float:
        settings = replace(SETTINGS, penalty=PenaltySettings(weight))
        task = tiny_task(network, 1, torch.float32)
        tau = train(network, task, settings, penalty=name, **known).tensors
        batches = [points.batch(range(36)) for points in others]
        return sum(float(jvp(network, tau, b)[1].square().sum()) for b in batches)

    assert drift(10.0) < 0.3 * drift(0.0)


def test_the_usual_weight_is_that_of_the_penalty() -> None:
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    usual = replace(SETTINGS, penalty=PenaltySettings(), steps=2)
    known = {"others": [tiny_points(2)]}
    assert train(network, task, usual, penalty="tau-jp", **known).settings["lam"] == 10
    assert train(network, task, usual, penalty="orthoreg").settings["lam"] == 1
    assert train(network, task, usual).settings["lam"] == 0
    curvature = tiny_curvature(network, tiny_points(2))
    assert "lam_by" in train(network, task, usual, curvature=curvature).settings
