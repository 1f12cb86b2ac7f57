"""Training with matrix products in bfloat16, beside the same training in float32."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode

from kfac_artifacts.choices import REGIMES
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.linearize import jvp, linearize, vjp
from kfac_artifacts.train import TrainSettings, train
from kfac_artifacts.train.precision import check_precision
from tests.models import IMAGE_MODELS, MODELS, image_batch, text_batch
from tests.test_linearize import _network, _random, _some
from tests.tiny_task import (
    SETTINGS,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
    train_tiny,
)
from tests.train.test_interruption import _assert_same_files, _stop_at

FLOAT = torch.float32


class Products(TorchDispatchMode):
    """Remember the number types of matrices that were multiplied, or dotted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiplied: set[torch.dtype] = set()
        self.dotted: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        tensors = {a.dtype for a in args if isinstance(a, torch.Tensor)}
        if name in {"mm", "addmm", "bmm", "baddbmm"}:
            self.multiplied |= tensors
        if name == "dot":
            self.dotted |= tensors
        return func(*args, **(kwargs or {}))


def relative(found: Any, exact: Any) -> float:
    """Distance of two task vectors over the norm of one."""
    far = sum(float((found[n] - exact[n]).square().sum()) for n in exact)
    return (far / sum(float(t.square().sum()) for t in exact.values())) ** 0.5


@pytest.mark.parametrize("kind", MODELS)
def test_derivatives_are_those_of_float32_up_to_rounding(kind: str) -> None:
    exact = _network(kind, FLOAT)
    coarse = dataclasses.replace(exact, precision=torch.bfloat16)
    images = kind in IMAGE_MODELS
    batch = image_batch(dtype=FLOAT) if images else text_batch()
    values = exact.parameters()
    tau = _random({n: values[n].detach() for n in _some(exact)})
    for one, other in zip(jvp(coarse, tau, batch), jvp(exact, tau, batch), strict=True):
        assert one.dtype == FLOAT
        assert 0 < float((one - other).norm() / other.norm()) < 0.05
    s = torch.randn_like(exact(batch))
    pulled, whole = (vjp(n, tuple(tau), batch, s) for n in (coarse, exact))
    assert relative(pulled, whole) < 0.05
    model = linearize(coarse, tuple(tau))
    (s * model(batch)).sum().backward()
    assert relative({n: t.grad for n, t in model.tau().items()}, whole) < 0.05


@pytest.mark.parametrize("regime", [n for n in REGIMES if n != "attention"])
def test_every_regime_learns_nearly_the_same(regime: str) -> None:
    network = tiny_network()
    task = tiny_task(network, 1, FLOAT)
    curvature = tiny_curvature(network, tiny_points(2))
    settings = dataclasses.replace(SETTINGS, steps=8)
    exact, coarse = (
        train(
            network,
            task,
            dataclasses.replace(settings, precision=precision),
            curvature=curvature,
            regime=regime,
        )
        for precision in ("float32", "bf16")
    )
    assert all(t.dtype == FLOAT for t in coarse.tensors.values())
    assert 0 < relative(coarse.tensors, exact.tensors) < 0.1
    assert coarse.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=0.05)
    assert coarse.settings["precision"] == "bf16"
    assert "precision" not in exact.settings
    assert network.precision is None


def test_the_network_is_multiplied_in_bfloat16_and_the_penalty_in_float32() -> None:
    network = tiny_network()
    task = dataclasses.replace(tiny_task(network, 1, FLOAT), held_out=None)
    settings = dataclasses.replace(SETTINGS, steps=1, precision="bf16")
    with Products() as products:
        train(network, task, settings, regime="ordinary")
    assert torch.bfloat16 in products.multiplied
    curvature = tiny_curvature(network, tiny_points(2))
    with Products() as products:
        train(network, task, settings, curvature=curvature)
    assert products.dotted == {FLOAT}


def test_it_goes_on_to_the_same_files(tmp_path: Path) -> None:
    train_tiny(output=tmp_path / "whole", precision="bf16")
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=tmp_path / "cut", precision="bf16", report=_stop_at(70))
    with pytest.raises(MismatchError, match="precision"):
        train_tiny(output=tmp_path / "cut", resume=True)
    train_tiny(output=tmp_path / "cut", precision="bf16", resume=True)
    _assert_same_files(tmp_path / "whole", tmp_path / "cut")


def test_what_was_learned_is_measured_in_float32() -> None:
    network = tiny_network()
    task = tiny_task(network, 1, FLOAT)
    settings = dataclasses.replace(SETTINGS, steps=3, precision="bf16")
    vector = train(network, task, settings, regime="ordinary")
    moved = network.moved(vector.tensors, task.examples.batch(range(36)))
    right = task.head.logits(moved).argmax(-1) == task.head.targets(task.examples)
    held_out: Any = vector.metrics["held_out"]
    assert held_out["plain"] == float(right.double().mean())


class Slow(TorchDispatchMode):
    """A processor whose products in one number type take longer."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ == "mm" and args[0].dtype == self.dtype:
            time.sleep(0.3)
        return func(*args, **(kwargs or {}))


def test_a_precision_that_the_processor_is_slow_at_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = torch.device("cpu")
    with Slow(torch.bfloat16):
        check_precision(device, "bf16", warn=False)
        assert not caplog.text
        check_precision(device, "bf16", warn=True)
    assert "times as slowly as those of float32" in caplog.text
    assert "--precision float32" in caplog.text
    caplog.clear()
    with Slow(FLOAT):
        check_precision(device, "bf16", warn=True)
        check_precision(device, "float32", warn=True)
    assert not caplog.text


def test_another_precision_is_refused() -> None:
    with pytest.raises(SettingsError, match="'fp16' is unknown; choose from float32"):
        TrainSettings(precision="fp16")


@pytest.fixture
def unlaunched() -> Iterator[None]:
    """Let accelerate read its environment anew, and forget it again."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("unlaunched")
def test_a_precision_of_accelerates_own_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(SettingsError, match="has mixed precision bf16"):
        train_tiny(steps=1)
