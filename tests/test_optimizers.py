"""AdamW with moments of 8 bits: near to that of 32, and resumed to the last bit."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.choices import OPTIMIZERS
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.network import Network, OutputMap
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import TrainingProgress, TrainSettings, train
from tests.tiny_task import tiny_task

SETTINGS = TrainSettings(steps=60, batch_size=8, learning_rate=3e-3)
EIGHT = replace(SETTINGS, optimizer="adamw8bit")


def wide_network() -> Network:
    """A layer so large that its moments are kept in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    output_map = OutputMap(NamedConfig("last"), lambda m, batch: m(batch["x"]))
    return Network(module, output_map, "wide")


def run(settings: TrainSettings, **how: Any) -> TaskVector:
    network = wide_network()
    return train(network, tiny_task(network, 1, torch.float32), settings, **how)


def stop(progress: TrainingProgress) -> None:
    if progress.step == 55:
        raise KeyboardInterrupt


def test_moments_of_8_bits_train_nearly_as_those_of_32() -> None:
    whole, eight = run(SETTINGS), run(EIGHT)
    assert eight.settings["optimizer"] == "adamw8bit"
    assert "optimizer" not in whole.settings
    losses: list[Any] = [vector.metrics["loss"] for vector in (eight, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    for name, change in whole.tensors.items():
        assert not torch.equal(eight.tensors[name], change) or change.numel() < 4096
        close = torch.cosine_similarity(
            eight.tensors[name].flatten(), change.flatten(), dim=0
        )
        assert close > 0.95


@pytest.mark.parametrize("settings", [SETTINGS, EIGHT])
def test_an_interrupted_training_goes_on_to_the_same_numbers(
    tmp_path: Path, settings: TrainSettings
) -> None:
    whole = run(settings)
    with pytest.raises(KeyboardInterrupt):
        run(settings, output=tmp_path / "tau", report=stop)
    seen: list[TrainingProgress] = []
    again = run(settings, output=tmp_path / "tau", resume=True, report=seen.append)
    assert (seen[0].step, seen[0].resumed) == (50, True)
    assert again.sha256 == whole.sha256


def test_a_checkpoint_of_the_other_optimizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(SETTINGS, output=tmp_path / "tau", report=stop)
    with pytest.raises(MismatchError, match="optimizer was None, is adamw8bit"):
        run(EIGHT, output=tmp_path / "tau", resume=True)


def test_it_keeps_a_quarter_of_the_bytes() -> None:
    def kept(name: str) -> int:
        parameter = nn.Parameter(torch.zeros(512, 512))
        parameter.grad = torch.ones_like(parameter)
        optimizer = OPTIMIZERS[name]([parameter], 0.1, 0.0)
        optimizer.step()
        values = optimizer.state[parameter].values()
        return sum(v.nbytes for v in values if isinstance(v, Tensor))

    assert kept("adamw8bit") < 0.27 * kept("adamw")


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(SettingsError, match="'adamw8bit'"):
        run(replace(SETTINGS, optimizer="sgd"))


def test_where_bitsandbytes_is_not_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(SettingsError, match=r"adamw8bit does not work.*take adamw"):
        run(EIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_trains_on_a_gpu() -> None:
    network = wide_network()
    task = tiny_task(network, 1, torch.float32)
    network.to("cuda")
    loss: Any = train(network, task, EIGHT).metrics["loss"]
    assert loss < 1.0
