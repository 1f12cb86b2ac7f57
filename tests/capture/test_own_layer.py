"""A layer of one's own: registered, proved, and refused when it is wrong."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Layout
from kfac_artifacts.capture import KroneckerLayer
from kfac_artifacts.capture.layers import registry
from kfac_artifacts.capture.layers.kinds import MAX_GRAMIAN
from tests.brute_force import EXACT, check_against_brute_force
from tests.computed import compute


class Mix(nn.Module):
    """``z = x K + s``, of which the parameters are called otherwise."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(d_in, d_out))
        self.shift = nn.Parameter(torch.randn(d_out))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel + self.shift


class Gate(nn.Module):
    """``z = tanh(g) x``: one number per feature, not linear in it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(features))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.gain.tanh() * x


class GateLayer(kfac.GramianLayer):
    def __init__(self, name: str, parameters: dict[str, str], module: Gate) -> None:
        super().__init__(name, parameters)
        self._module = module

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        slope = 1 - self._module.gain.detach().tanh() ** 2
        return {"weight": (g * a * slope).sum(1)}


ROLES = {"kernel": "weight", "shift": "bias"}


def mix(
    module: nn.Module, name: str, parameters: dict[str, str]
) -> kfac.LinearLayer | str:
    """The right layer of a Mix."""
    return kfac.LinearLayer(name, parameters, Layout.COLUMNS)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def tiny(width: int = 4) -> tuple[kfac.Network, kfac.TensorExamples]:
    torch.manual_seed(0)
    parts = Mix(3, width), Gate(width), nn.Tanh(), Mix(width, 4)
    module = nn.Sequential(*parts).double()
    output_map = kfac.OutputMap(kfac.NamedConfig("f"), lambda m, b: m(b["x"]).sum(1))
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    return kfac.Network(module, output_map, "tiny"), kfac.TensorExamples({"x": x}, "x")


def test_without_it_matrices_are_left_out_and_the_rest_covered_one_by_one() -> None:
    artifact = compute(*tiny())
    assert set(artifact.blocks) == {"0.shift", "1.gain", "3.shift"}
    assert set(artifact.provenance.uncovered) == {"0.kernel", "3.kernel"}


def test_its_blocks_are_those_of_brute_force() -> None:
    kfac.register_layer(Mix, mix, roles=ROLES)
    kfac.register_layer(
        Gate, lambda m, name, own: GateLayer(name, own, m), roles={"gain": "weight"}
    )
    artifact = compute(*tiny(), cotangents=EXACT)
    found = check_against_brute_force(*tiny(), artifact)
    assert found == {"kronecker": 2, "gramian": 1}
    assert set(artifact.blocks) == {"0", "1.gain", "3"}
    assert artifact.blocks["0"].parameters == ("0.kernel", "0.shift")
    assert not artifact.provenance.uncovered


def test_a_wrong_one_is_left_out_by_name() -> None:
    """Of a square weight no shape tells which way round it is."""
    kfac.register_layer(Mix, lambda _, *own: kfac.LinearLayer(*own), roles=ROLES)
    artifact = compute(*tiny())
    assert "3.kernel" in artifact.provenance.uncovered
    assert "3" not in artifact.blocks


def test_a_reason_is_told() -> None:
    kfac.register_layer(Mix, lambda *_: "it is not to be covered", roles=ROLES)
    uncovered = compute(*tiny()).provenance.uncovered
    assert uncovered["0.kernel"] == uncovered["0.shift"] == "it is not to be covered"


def test_a_subclass_is_of_the_kind_unless_it_has_one_of_its_own() -> None:
    class Other(Mix):
        pass

    kfac.register_layer(Mix, mix, roles=ROLES)
    network, examples = tiny()
    network.module[0].__class__ = Other
    assert "0" in compute(network, examples).blocks
    kfac.register_layer(Other, lambda *_: "no", roles=ROLES)
    assert compute(network, examples).provenance.uncovered["0.kernel"] == "no"


def test_what_would_not_be_proved_is_refused() -> None:
    class Unproved(kfac.LinearLayer):
        def record(self, calls: Any, g: Tensor) -> None:  # type: ignore[override, misc]
            raise AssertionError

    class Neither(KroneckerLayer):
        gradients = kfac.LinearLayer.gradients
        add_input = kfac.LinearLayer.add_input
        add_cotangents = kfac.LinearLayer.add_cotangents
        record = kfac.LinearLayer.record

    kfac.register_layer(Mix, lambda _, *own: Unproved(*own), roles=ROLES)
    with pytest.raises(kfac.SettingsError, match="record of its own, which is not"):
        compute(*tiny())
    kfac.register_layer(Mix, lambda _, *own: Neither(*own), roles=ROLES, replace=True)
    with pytest.raises(kfac.SettingsError, match="neither a LinearLayer nor a Gramian"):
        compute(*tiny())
    wrong = {"weight": "another"}
    kfac.register_layer(
        Mix, lambda *_: kfac.LinearLayer("x", wrong), roles=ROLES, replace=True
    )
    with pytest.raises(kfac.SettingsError, match=r"covers .*another.*was given"):
        compute(*tiny())


def test_a_class_is_registered_once() -> None:
    kfac.register_layer(Mix, mix, roles=ROLES)
    with pytest.raises(kfac.SettingsError, match="Mix has a layer already; replace it"):
        kfac.register_layer(Mix, mix, roles=ROLES)
    kfac.register_layer(Mix, mix, roles=ROLES, replace=True)


def test_one_parameter_is_the_weight() -> None:
    with pytest.raises(kfac.SettingsError, match="Mix must have the role weight"):
        kfac.register_layer(Mix, mix, roles={"shift": "bias"})


def test_a_gramian_that_is_too_large_is_not_begun() -> None:
    kfac.register_layer(
        Gate, lambda m, name, own: GateLayer(name, own, m), roles={"gain": "weight"}
    )
    module = nn.Sequential(Gate(MAX_GRAMIAN + 1))
    output_map = kfac.OutputMap(kfac.NamedConfig("f"), lambda m, b: m(b["x"])[:, :2])
    network = kfac.Network(module, output_map, "wide")
    x = kfac.TensorExamples({"x": torch.randn(2, MAX_GRAMIAN + 1)}, "x")
    with pytest.raises(kfac.CoverageError, match="Gramian would be of size 8193"):
        compute(network, x)
