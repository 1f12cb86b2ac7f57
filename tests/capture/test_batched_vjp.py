"""Several cotangents pulled back at once give what they give one by one."""

from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.artifact import Cotangents, NamedConfig
from kfac_artifacts.capture import run as running
from kfac_artifacts.capture.hooks import Pass
from kfac_artifacts.choices import ESTIMATORS
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests import models
from tests.computed import compute

EXACT = Cotangents("exact", None, 0)
ONE_BY_ONE = 1  # room for a single cotangent


class Twice(nn.Module):
    """A convolution, a norm over channels, attention, and a map that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.twice = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Any) -> Any:
        x = torch.relu_(self.norm(self.conv(x)))
        x = self.depthwise(x).flatten(2).mT
        x = x + self.attention(x, x, x, need_weights=False)[0] * self.scale
        return self.twice(self.twice(x).tanh())[:, :3].sum(1)


class ThroughNumpy(torch.autograd.Function):
    """Doubles; its way back leaves PyTorch, where nothing is batched."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return torch.from_numpy(2 * g.numpy())


def state(module: nn.Module, batch: Any) -> Any:
    return module(**batch).last_hidden_state.mean(1)


def texts() -> Any:
    torch.manual_seed(0)
    ids = torch.randint(1, 20, (3, 5))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def images() -> Any:
    return {"pixel_values": torch.randn(3, 3, 8, 8, dtype=torch.float64)}


def squares() -> Any:
    return {"x": torch.randn(3, 2, 6, 6, dtype=torch.float64)}


CASES = {
    "bert": (models.tiny_bert, state, models.text_batch),
    "vit": (models.tiny_vit, state, images),
    "gpt2": (models.tiny_gpt2, state, texts),
    "mixtral": (lambda: models.tiny("mixtral"), state, models.text_batch),
    "twice": (Twice, lambda m, b: m(b["x"]), squares),
}


@pytest.fixture
def backward_passes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How many cotangents of each example came back in every backward pass."""
    counts = []
    one, several = Pass.backward, Pass.backward_several

    def noted_one(self: Any, s: Any, **options: Any) -> Any:
        counts.append(1)
        return one(self, s, **options)

    def noted_several(self: Any, S: Any, **options: Any) -> Any:
        counts.append(len(S))
        return several(self, S, **options)

    monkeypatch.setattr(Pass, "backward", noted_one)
    monkeypatch.setattr(Pass, "backward_several", noted_several)
    return counts


def factors(network: Network, batch: Any, cotangents: Any, name: str = "kfac") -> Any:
    examples = TensorExamples(batch, "x")
    estimator = ESTIMATORS[name]()
    artifact = compute(
        network, examples, cotangents=cotangents, estimator=estimator, batch_size=2
    )
    return {n: f.to_dense() for n, f in artifact.factors.items()}


def network_of(module: nn.Module, f: Any) -> Any:
    return Network(module.double().eval(), OutputMap(NamedConfig("f"), f), "toy")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("estimator", ["kfac", "kfac-reduce"])
@pytest.mark.parametrize("cotangents", [EXACT, Cotangents("mc", 3, 0)])
def test_at_once_and_one_by_one_give_the_same_factors(
    name: str,
    estimator: Any,
    cotangents: Any,
    backward_passes: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    make, f, batch = CASES[name]
    network, data = network_of(make(), f), batch()  # type: ignore[no-untyped-call]
    at_once = factors(network, data, cotangents, estimator)
    assert max(backward_passes) > 1
    backward_passes.clear()
    monkeypatch.setattr(running, "ROOM_CPU", ONE_BY_ONE)
    one_by_one = factors(network, data, cotangents, estimator)
    assert max(backward_passes) == 1
    assert at_once.keys() == one_by_one.keys()
    for factor, found in at_once.items():
        torch.testing.assert_close(
            found, one_by_one[factor], rtol=1e-10, atol=1e-12, msg=factor
        )


def test_what_has_no_batching_rule_is_pulled_back_one_by_one(
    backward_passes: Any,
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    data = {"x": torch.randn(4, 3, dtype=torch.float64)}
    plain = network_of(module, lambda m, b: 2 * m(b["x"]))
    expected = factors(plain, data, EXACT)
    assert max(backward_passes) == 3
    backward_passes.clear()
    network = network_of(module, lambda m, b: ThroughNumpy.apply(m(b["x"])))  # type: ignore[no-untyped-call]
    found = factors(network, data, EXACT)
    assert max(backward_passes) == 1
    for name, factor in expected.items():
        torch.testing.assert_close(found[name], factor, rtol=1e-10, atol=1e-12)
