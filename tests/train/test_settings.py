"""Batches, learning rates and what else follows from the settings."""

import dataclasses
from typing import Any

import pytest

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.train import PenaltySettings, TrainSettings, steps_of


def test_batches_follow_from_seed_and_step_alone() -> None:
    indices = tuple(range(10, 30))
    settings = TrainSettings(batch_size=6, seed=3)
    epoch = [i for step in range(3) for i in settings.batch(step, indices)]
    assert len(set(epoch)) == 18
    assert set(epoch) <= set(indices)
    again = TrainSettings(batch_size=6, seed=3)
    assert [again.batch(s, indices) for s in (7, 2)] == [
        settings.batch(s, indices) for s in (7, 2)
    ]
    assert settings.batch(0, indices) != settings.batch(3, indices)
    assert settings.batch(0, indices) != TrainSettings(batch_size=6).batch(0, indices)


def test_a_batch_is_never_larger_than_the_data() -> None:
    assert sorted(TrainSettings(batch_size=64).batch(5, (3, 4, 9))) == [3, 4, 9]


def test_limit_chooses_by_the_seed() -> None:
    chosen = TrainSettings(limit=5, seed=1).choose(40)
    assert len(set(chosen)) == 5
    assert chosen == TrainSettings(limit=5, seed=1).choose(40)
    assert chosen != TrainSettings(limit=5, seed=2).choose(40)
    assert TrainSettings(limit=50).choose(3) == [0, 1, 2]


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainSettings(steps=100, learning_rate=1.0)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert TrainSettings(steps=9000).rate(499) == TrainSettings().learning_rate
    assert TrainSettings(steps=2, warmup=5).rate(1) == TrainSettings().learning_rate


def test_penalty_factor_makes_up_for_left_out_steps() -> None:
    settings = PenaltySettings(2.0, every=3)
    assert [settings.factor(s) for s in range(4)] == [6.0, 0.0, 0.0, 6.0]
    plain = dataclasses.replace(settings, unscaled=True)
    assert [plain.factor(s) for s in range(4)] == [2.0, 0.0, 0.0, 2.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"limit": 1},
        {"weight_decay": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        TrainSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -1.0},
        {"weight": float("nan")},
        {"every": 0},
        {"module_weights": {"x": -1.0}},
    ],
)
def test_penalties_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        PenaltySettings(**wrong)


def test_epochs_are_turned_into_steps() -> None:
    assert steps_of(2.0, 100, 32) == 6
    assert steps_of(0.01, 100, 32) == 1
    assert steps_of(3.0, 10, 32) == 3
