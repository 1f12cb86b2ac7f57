"""Compiled, replicated and adapted modules: names of the plain module, or a word."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import Cotangents, NamedConfig
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.linearize import linearize
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests.computed import compute

EXACT = Cotangents("exact", None, 0)
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


def network_of(module: nn.Module) -> Any:
    return Network(
        module, OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "wrapped"
    )


def artifact_of(module: nn.Module) -> Any:
    return compute(network_of(module), TensorExamples({"x": X}, "x"), cotangents=EXACT)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def compiled_in_place(module: nn.Module) -> Any:
    module.compile(backend="eager")
    return module


def compiled_parts(module: nn.Module) -> Any:
    module.first = torch.compile(module.first, backend="eager")  # type: ignore[assignment]
    module.blocks[1] = torch.compile(module.blocks[1], backend="eager")  # type: ignore[assignment]
    module.blocks[0].compile(backend="eager")
    return module


def compiled_forward(module: nn.Module) -> Any:
    module.forward = torch.compile(module.forward, backend="eager")
    return module


def both(module: nn.Module) -> Any:
    return nn.DataParallel(torch.compile(compiled_parts(module), backend="eager"))


WRAPS = [compiled, compiled_in_place, compiled_parts, compiled_forward, both]


@pytest.mark.parametrize("wrap", [*WRAPS, nn.DataParallel])
def test_the_artifact_of_a_wrapped_module_is_that_of_the_plain_one(wrap: Any) -> None:
    module = wrap(Model())
    names = [name for name, _ in module.named_parameters()]
    with torch.no_grad():
        module(X)  # compiled by now
    artifact, expected = artifact_of(module), artifact_of(Model())
    assert list(artifact.blocks) == list(expected.blocks)
    assert artifact.provenance.base.sha256 == expected.provenance.base.sha256
    assert not artifact.provenance.uncovered
    for name, factor in expected.factors.items():
        torch.testing.assert_close(artifact.factors[name].to_dense(), factor.to_dense())
    assert [name for name, _ in module.named_parameters()] == names


@pytest.mark.parametrize("wrap", [compiled, compiled_in_place, both])
def test_a_wrapped_module_is_linearised_by_the_names_of_the_plain_one(
    wrap: Any,
) -> None:
    model = linearize(network_of(wrap(Model())), ["first.weight", "blocks.1.bias"])
    model({"x": X}).sum().backward()
    expected = linearize(network_of(Model()), ["first.weight", "blocks.1.bias"])
    expected({"x": X}).sum().backward()
    for name, value in expected.tau().items():
        torch.testing.assert_close(model.tau()[name].grad, value.grad)


def adapted(module: nn.Module) -> Any:
    """As peft does it, whose classes are known by name."""
    base = type("BaseTunerLayer", (), {"__module__": "peft.tuners.tuners_utils"})
    module.first = type("Linear", (nn.Linear, base), {"__module__": "peft.tuners"})(
        4, 4
    )
    return module


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            torch.jit.script,
            "the model is TorchScript.*the module that it was made from",
        ),
        (lambda m: torch.jit.trace(m, X), "TorchScript"),
        (lambda m: nn.Sequential(torch.jit.script(m.norm)), "^0 is TorchScript"),
        (adapted, "first holds an adapter of peft.*merge_and_unload"),
        (lambda m: nn.Sequential(nn.ReLU()), "no parameters of real numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_is_no_plain_module_is_refused(wrap: Any, message: Any) -> None:
    with pytest.raises(CoverageError, match=message):
        network_of(wrap(copy.deepcopy(Model())))


def test_a_module_split_by_fsdp_is_refused() -> None:
    from torch.distributed.fsdp import FSDPModule

    module = Model()
    module.first.__class__ = type("FSDPLinear", (FSDPModule, nn.Linear), {})
    with pytest.raises(CoverageError, match="first is split over processes by FSDP"):
        network_of(module)
