"""How a network moves, regime by regime, against formulas written out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, jvp
from torch.nn.functional import cross_entropy

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.choices import REGIMES
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.network import Network, OutputMap
from kfac_artifacts.sources import output_map
from kfac_artifacts.task_vector import ClassifierHead
from kfac_artifacts.train import (
    Learning,
    PenaltySettings,
    Regime,
    TrainingTask,
    TrainSettings,
    choose_regime,
    train,
)
from kfac_artifacts.train.regimes.ordinary import is_attention
from tests.models import text_batch, tiny_bert
from tests.tiny_task import (
    SETTINGS,
    LabelledPoints,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
)

DOUBLE = torch.float64
NAMES = ("first.weight", "first.bias", "norm.weight", "last.weight")


def made(name: str, network: Network, **settings: Any) -> Any:
    """A regime whose changes are drawn at random."""
    regime = choose_regime(name, **settings)(network, NAMES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in regime.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * drawn)
    return regime


def learning(network: Network, steps: int = 10, **changes: Any) -> Learning:
    task = tiny_task(network, 1, DOUBLE)
    settings = replace(SETTINGS, steps=steps, **changes)
    return Learning(task, tuple(range(36)), settings)


def start(network: Network) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in network.parameters().items()}


def at(network: Network, tau: Any, batch: Any, alpha: float = 1.0) -> Tensor:
    """``f(θ0 + α τ)`` of the tiny network, by torch alone."""
    values = start(network)
    values |= {n: values[n] + alpha * change for n, change in tau.items()}
    return network.output_map(Called(network.module, values), batch)


class Called(nn.Module):
    """A module that has other parameters, for an output map that calls its parts."""

    def __init__(self, module: nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.of, self.values = module, values

    def get_submodule(self, target: str) -> Any:
        part = self.of.get_submodule(target)
        own = {
            name.removeprefix(f"{target}."): value
            for name, value in self.values.items()
            if name.startswith(f"{target}.")
        }
        return lambda x: functional_call(part, own, (x,))


@pytest.mark.parametrize("name", ["ordinary", "lora", "talos"])
def test_ordinary_networks_are_moved_by_tau(name: str) -> None:
    network, batch = tiny_network(DOUBLE), tiny_points(1, DOUBLE).batch(range(5))
    regime = made(name, network)
    torch.testing.assert_close(regime(batch), at(network, regime.tau(), batch))
    regime(batch).sum().backward()
    assert all(p.grad is None for p in network.module.parameters())


def test_lora_moves_matrices_by_products_of_its_rank() -> None:
    network = tiny_network(DOUBLE)
    regime = made("lora", network, rank=2, alpha=6.0)
    assert list(regime.tau()) == ["first.weight", "last.weight"]
    expected = 3.0 * regime.left[0] @ regime.right[0]
    torch.testing.assert_close(regime.tau()["first.weight"], expected)
    assert torch.linalg.matrix_rank(expected) == 2
    assert regime.describe()["regime"] == {"name": "lora", "rank": 2, "alpha": 6.0}


def test_lora_begins_by_the_seed_as_a_linear_layer_does() -> None:
    network = tiny_network(DOUBLE)
    one, again, other = (choose_regime("lora")(network, NAMES) for _ in range(3))
    one.prepare(learning(network, seed=5))
    again.prepare(learning(network, seed=5))
    other.prepare(learning(network, seed=6))
    U, same, another = (r.right[0] for r in (one, again, other))
    assert torch.equal(U, same)
    assert not torch.equal(U, another)
    assert U.abs().max() <= 4**-0.5
    assert U.std() > 0.3 * 4**-0.5
    assert not any(V.any() for V in one.left)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lora", {"rank": 0}),
        ("lora", {"alpha": 0.0}),
        ("talos", {"share": 0.0}),
        ("talos", {"share": 1.1}),
        ("delta", {"path": (1.5, 2.0)}),
        ("delta", {"draw": -1.0}),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: Any) -> None:
    with pytest.raises(SettingsError, match=r"found"):
        choose_regime(name, **settings)(tiny_network(), NAMES)


class Block(nn.Module):
    """Attention with norms, biases and a table of places, and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "query": nn.Linear(4, 4),
                "norm": nn.LayerNorm(4),
                "relative_bias": nn.Embedding(3, 4),
            }
        )
        self.attn = nn.MultiheadAttention(4, 2)
        self.mlp = nn.Linear(4, 3)


def test_attention_alone_is_its_matrices() -> None:
    module = Block()
    names = tuple(dict(module.named_parameters()))
    f = OutputMap(NamedConfig("f"), lambda m, b: m.mlp(b["x"]))
    network = Network(module, f, "block")
    found = choose_regime("attention")(network, names)
    assert set(found.tau()) == {
        "attention.query.weight",
        "attn.in_proj_weight",
        "attn.out_proj.weight",
    }
    with pytest.raises(CoverageError, match="called attention"):
        choose_regime("attention")(network, ("mlp.weight", "attn.in_proj_bias"))
    assert is_attention("encoder.block.0.layer.0.SelfAttention.q.weight")
    assert is_attention("h.0.attn.c_attn.weight")
    assert not is_attention("mlp.attention_weight")


def sensitivities(
    network: Network, task: TrainingTask, kept: Tensor, examples: range
) -> Tensor:
    """Squares of the gradient of the likeliest logit, summed over examples."""
    values, place = start(network), 0
    for name in NAMES:
        size = values[name].numel()
        mask = kept[place : place + size].view(values[name].shape)
        values[name] = torch.where(mask, 1.0, 0.1) * values[name]
        values[name].requires_grad_()
        place += size
    total = torch.zeros(len(kept), dtype=DOUBLE)
    for index in examples:
        batch = task.examples.batch([index])
        f = network.output_map(Called(network.module, values), batch)
        likeliest = task.head.logits(f)[0].max()
        found = torch.autograd.grad(likeliest, [values[n] for n in NAMES])
        total += torch.cat([g.flatten() for g in found]).square()
    return total


def test_talos_moves_the_least_sensitive_weights() -> None:
    """With a head that is sure of every answer, no draw has a choice."""
    network = tiny_network(DOUBLE)
    given = learning(network)
    sure = replace(given.task, head=replace(given.task.head, logit_scale=1e5))
    regime: Any = choose_regime("talos", share=0.3)(network, NAMES)
    regime.prepare(replace(given, task=sure))
    kept = torch.ones(sum(start(network)[n].numel() for n in NAMES)).bool()
    count = len(kept)
    for number in (1, 2, 3, 4):
        scores = sensitivities(network, sure, kept, range(36))
        left = scores[kept].sort().values
        kept &= scores <= left[round(count * 0.3 ** (number / 4)) - 1]
    assert torch.equal(torch.cat([m.flatten() for m in regime.masks]), kept)
    assert int(kept.sum()) == round(0.3 * count)


def test_only_what_talos_chose_moves() -> None:
    vector = train(
        tiny_network(),
        tiny_task(tiny_network(), 1, torch.float32),
        SETTINGS,
        regime=choose_regime("talos", share=0.2),
    )
    moved = torch.cat([t.flatten() != 0 for t in vector.tensors.values()])
    assert 0 < moved.double().mean() <= 0.21
    assert vector.settings["regime"] == {"name": "talos", "share": 0.2}


def test_talos_moves_no_table_and_as_many_numbers_as_were_wanted() -> None:
    """Rows of tokens that do not occur are the least sensitive of all."""
    module = tiny_bert()
    network = Network(module, output_map(module, "mean-pool"), "bert")
    names = tuple(network.parameters())
    regime: Any = choose_regime("talos", share=0.1)(network, names)
    assert {n for n in names if "embeddings.weight" in n} == {*names} - {*regime.names}
    examples = LabelledPoints(text_batch(), "texts", (0, 1, 0))
    head = ClassifierHead(torch.eye(2, 8), ("a", "b"), 1.0)
    task = TrainingTask(examples, head)
    regime.prepare(Learning(task, (0, 1, 2), SETTINGS))
    count = sum(mask.numel() for mask in regime.masks)
    assert sum(int(mask.sum()) for mask in regime.masks) == round(0.1 * count)
    tables = [n for n in names if "word_embeddings" in n]
    with pytest.raises(CoverageError, match="TaLoS trains no tables"):
        choose_regime("talos")(network, tables)


def test_delta_is_three_terms_at_a_point_on_the_line() -> None:
    network, batch = tiny_network(DOUBLE), tiny_points(1, DOUBLE).batch(range(6))
    regime: Any = made("delta", network, draw=0.7)
    given = learning(network)
    regime.prepare(given)
    regime.begin(9)
    alpha = regime.alpha
    assert alpha != 1.0
    student, teacher = regime.held_back()
    assert regime.tau().keys() == student.keys()
    output = regime(batch)
    torch.testing.assert_close(output, at(network, student, batch, alpha))

    def moved(values: Any) -> Tensor:
        return at(network, values, batch)

    zero = {n: torch.zeros_like(change) for n, change in teacher.items()}
    f0, change, *_ = jvp(moved, (zero,), (teacher,))
    taught = f0 + alpha * change
    targets = given.task.head.targets(given.task.examples)[:6]

    def task_loss(f: Tensor) -> Tensor:
        return cross_entropy(given.task.head.logits(f), targets, reduction="sum")

    beside = regime.loss_beside(batch, output, task_loss)
    distance = (output - taught).square().sum()
    torch.testing.assert_close(beside, task_loss(taught) + 0.7 * distance)
    beside.backward()
    own = dict(regime.teacher.tau())
    leaf = {n: t.detach().clone().requires_grad_() for n, t in teacher.items()}
    task_loss(f0.detach() + alpha * jvp(moved, (zero,), (leaf,))[1]).backward()
    for name, value in leaf.items():  # nothing comes back from the distance
        torch.testing.assert_close(own[name].grad, value.grad)


def test_the_line_of_delta_grows_from_one_and_follows_from_the_step() -> None:
    network = tiny_network(DOUBLE)
    regime = choose_regime("delta")(network, NAMES)
    regime.prepare(learning(network, steps=400))
    found = []
    for step in range(400):
        regime.begin(step)
        found.append(regime.alpha)
    assert found[0] == 1.0
    width = [(step / 400) ** 0.5 for step in range(400)]
    assert all(1 - 0.5 * w <= a <= 1 + w for a, w in zip(found, width, strict=True))
    last = found[300:]
    assert min(last) < 0.7
    assert max(last) > 1.7
    regime.begin(123)
    assert regime.alpha == found[123]


def test_delta_holds_back_both_of_its_task_vectors() -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(2))

    def drifts(weight: float) -> list[float]:
        kept: list[Regime] = []

        def keep(network: Network, names: Any) -> Regime:
            kept.append(choose_regime("delta")(network, names))
            return kept[-1]

        settings = replace(SETTINGS, penalty=PenaltySettings(weight=weight))
        task = tiny_task(network, 1, torch.float32)
        train(network, task, settings, curvature=curvature, regime=keep)
        with torch.no_grad():
            return [float(curvature.drift(tau)) for tau in kept[0].held_back()]

    for strong, weak in zip(drifts(10.0), drifts(0.0), strict=True):
        assert strong < 0.3 * weak


@pytest.mark.parametrize("name", [n for n in REGIMES if n != "attention"])
def test_every_regime_learns_the_task(name: str) -> None:
    settings = TrainSettings(steps=80, batch_size=8, learning_rate=0.02)
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    held_out: Any = train(network, task, settings, regime=name).metrics["held_out"]
    mode = "linear" if name == "linearised" else "plain"
    assert held_out[mode] > held_out["pretrained"]


@pytest.mark.parametrize("name", [n for n in REGIMES if n != "attention"])
def test_what_every_regime_learned_is_measured_in_both_modes(name: str) -> None:
    settings = TrainSettings(steps=40, batch_size=8, learning_rate=0.05)
    network = tiny_network()
    task = tiny_task(network, 1, torch.float32)
    vector = train(network, task, settings, regime=name)
    assert task.held_out is not None
    batch, targets = task.held_out.batch(range(36)), task.head.targets(task.held_out)
    change = jvp(
        lambda tau: at(network, tau, batch),
        ({n: torch.zeros_like(t) for n, t in vector.tensors.items()},),
        (dict(vector.tensors),),
    )[1]
    outputs = {
        "pretrained": network(batch),
        "linear": network(batch) + change,
        "plain": at(network, vector.tensors, batch),
    }
    right = {
        mode: int((task.head.logits(f).argmax(-1) == targets).sum()) / 36
        for mode, f in outputs.items()
    }
    assert vector.metrics["held_out"] == {"examples": 36} | right
    assert vector.settings["mode"] == ("linear" if name == "linearised" else "plain")


class Crooked(torch.autograd.Function):
    """A square without forward-mode rule, and with a backward that has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradients[0]


def test_a_network_that_cannot_be_linearised_is_measured_as_the_ordinary_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = tiny_network()
    apply = network.output_map.apply
    network.output_map = OutputMap(
        NamedConfig("crooked"),
        lambda m, b: Crooked.apply(apply(m, b)),  # type: ignore[no-untyped-call]
    )
    task = tiny_task(network, 1, torch.float32)
    settings = TrainSettings(steps=2, batch_size=8, learning_rate=0.02)
    held_out: Any = train(network, task, settings, regime="ordinary").metrics[
        "held_out"
    ]
    assert held_out.keys() == {"examples", "pretrained", "plain"}
    assert caplog.text.count("the linearised model is not measured") == 1
