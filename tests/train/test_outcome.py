"""What is said of a training at its end, on both sides of every threshold."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from kfac_artifacts.linearize import jvp
from kfac_artifacts.train import PenaltySettings, TrainingTask, train
from tests.tiny_task import (
    SETTINGS,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
    train_tiny,
)


def test_the_own_loss_is_measured_in_every_mode() -> None:
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    known = {"curvature": tiny_curvature(network, tiny_points(2))}
    vector = train(network, TrainingTask(task.examples, task.head), SETTINGS, **known)
    tau, batch = dict(vector.tensors), task.examples.batch(range(36))
    output, change = jvp(network, tau, batch)
    outputs = {
        "pretrained": output,
        "linear": output + change,
        "plain": network.moved(tau, batch),
    }
    targets = task.head.targets(task.examples)
    losses: Any = vector.metrics["own_loss"]
    shares: Any = vector.metrics["own_accuracy"]
    assert losses.pop("examples") == shares.pop("examples") == 36
    for name, f in outputs.items():
        logits = task.head.logits(f)
        loss = float(cross_entropy(logits, targets))
        assert losses.pop(name) == pytest.approx(loss, rel=1e-4)
        assert shares.pop(name) == float((logits.argmax(-1) == targets).double().mean())
    assert not losses
    assert not shares
    assert "held_out" not in vector.metrics


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (1e-4, "the penalty does next to nothing"),
        (0.05, None),
        ("auto", None),
        (20.0, None),
        (200.0, "hardly anything was learnt"),
    ],
)
def test_a_weight_too_large_or_too_small_is_told(
    weight: Any, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    vector = train_tiny(penalty=PenaltySettings(weight))
    metrics: Any = vector.metrics
    losses, lam = metrics["own_loss"], float(str(vector.settings["lam"]))
    fallen = losses["pretrained"] - losses["linear"]
    assert (fallen < 0.1 * losses["pretrained"]) == (
        said == "hardly anything was learnt"
    )
    little = lam * metrics["penalty"] < 0.01 * fallen
    assert little == (said == "the penalty does next to nothing")
    assert (said or "") in caplog.text
    assert bool(caplog.text) == (said is not None)
    if said:
        assert f"{weight:.3g}" in caplog.text
        assert "--lambda" in caplog.text


def test_without_penalty_nothing_is_said_of_its_weight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    train_tiny(penalty=PenaltySettings(0.0))
    train_tiny(curved=False)
    assert not caplog.text


@pytest.mark.parametrize(("rate", "far"), [(0.02, False), (2.0, True)])
def test_an_ordinary_model_far_below_the_linearised_one_is_told(
    rate: float, far: bool, caplog: pytest.LogCaptureFixture
) -> None:
    vector = train_tiny(penalty=PenaltySettings(0.0), learning_rate=rate)
    held_out: Any = vector.metrics["held_out"]
    assert (held_out["linear"] - held_out["plain"] > 0.05) == far
    assert ("the ordinary model" in caplog.text) == far
    if far:
        assert "take a lower learning rate (--lr 7e-01)" in caplog.text


def test_an_ordinary_regime_is_not_compared_with_the_linearised_network(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has moved on purpose to where the two are unlike."""
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    settings = replace(SETTINGS, learning_rate=2.0)
    train(network, task, settings, regime="ordinary")
    assert not caplog.text
