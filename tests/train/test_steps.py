"""Steps of training against plain autograd: what moves, and what holds it back."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from kfac_artifacts.errors import (
    CoverageError,
    FactorError,
    MismatchError,
    SettingsError,
)
from kfac_artifacts.factors import Dense
from kfac_artifacts.train import PenaltySettings, train
from tests.artifacts import with_factors
from tests.tiny_task import (
    SETTINGS,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
    train_tiny,
)


def test_steps_are_those_of_adamw_on_loss_and_penalty() -> None:
    dtype = torch.float64
    network = tiny_network(dtype)
    task = tiny_task(network, 1, dtype)
    curvature = tiny_curvature(network, tiny_points(2, dtype))
    settings = dataclasses.replace(
        SETTINGS, steps=5, penalty=PenaltySettings(3.0, every=2)
    )
    found = train(network, task, settings, curvature=curvature).tensors

    parameters = network.parameters()
    start = {n: parameters[n].detach() for n in found}
    tau = {n: torch.zeros_like(v, requires_grad=True) for n, v in start.items()}
    optimizer = torch.optim.AdamW(tau.values(), weight_decay=settings.weight_decay)
    G = _gramian(curvature, tau)
    for step in range(settings.steps):
        chosen = settings.batch(step, tuple(range(36)))
        batch = task.examples.batch(chosen)
        jacobian = torch.func.jacrev(lambda p, b=batch: network.functional_call(p, b))(
            start
        )
        output = network(batch).detach()
        for name, J in jacobian.items():
            output = output + J.flatten(2) @ tau[name].flatten()
        targets = torch.tensor([task.examples.labels[i] for i in chosen])
        loss = cross_entropy(task.head.logits(output), targets)
        if step % 2 == 0:
            flat = torch.cat([tau[n].flatten() for n in tau])
            loss = loss + 2 * 3.0 * flat @ G @ flat
        optimizer.param_groups[0]["lr"] = settings.rate(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in tau.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("regime", ["linearised", "ordinary", "delta"])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(regime: str) -> None:
    dtype = torch.float64
    network = tiny_network(dtype)
    task = tiny_task(network, 1, dtype)
    curvature = tiny_curvature(network, tiny_points(2, dtype))
    whole, parts = (
        train(
            network,
            task,
            dataclasses.replace(SETTINGS, steps=4, accumulate=accumulate),
            curvature=curvature,
            regime=regime,
        )
        for accumulate in (1, 3)  # 8 examples in parts of unequal sizes
    )
    for name, value in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], value, rtol=1e-7, atol=1e-10)
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"])
    assert parts.metrics["accuracy"] == whole.metrics["accuracy"]
    assert parts.settings["accumulate"] == 3


def test_more_parts_than_examples_are_refused() -> None:
    with pytest.raises(SettingsError, match="9 parts each; every part needs"):
        train_tiny(accumulate=9)


def _gramian(curvature: Any, tau: dict[str, torch.Tensor]) -> torch.Tensor:
    """The matrix of the penalty, as the Hessian of the artifact's own estimate."""
    sizes = [t.numel() for t in tau.values()]

    def drift(flat: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(tau, flat.split(sizes), strict=True))
        shaped = {n: part.view(tau[n].shape) for n, part in parts.items()}
        values = [
            (W * block.product(W, curvature.factors)).sum()
            for block in curvature.blocks.values()
            for W in [block.gather(shaped)]
        ]
        return torch.stack(values).sum()

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    return 0.5 * torch.func.hessian(drift)(zero)


def test_penalty_lowers_the_drift_and_is_recorded() -> None:
    free, held = (
        train_tiny(penalty=PenaltySettings(0.0)),
        train_tiny(penalty=PenaltySettings(10.0)),
    )
    assert held.metrics["penalty"] < 0.2 * free.metrics["penalty"]
    assert free.metrics["loss"] < held.metrics["loss"]


def test_training_learns_the_task() -> None:
    vector = train_tiny(penalty=PenaltySettings(0.0), curved=False)
    held_out = vector.metrics["held_out"]
    assert isinstance(held_out, dict)
    assert held_out["linear"] > held_out["pretrained"]
    assert "penalty" not in vector.metrics


def test_parameters_that_f_does_not_reach_are_not_trained() -> None:
    assert not any(
        "unused" in name for name in train_tiny(steps=1, curved=False).tensors
    )


def test_parameters_without_curvature_never_move() -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(2))
    blocks = {n: b for n, b in curvature.blocks.items() if n != "last"}
    covered = {p for block in blocks.values() for p in block.parameters}
    provenance = dataclasses.replace(
        curvature.provenance, base=curvature.provenance.base.restrict(covered)
    )
    part = dataclasses.replace(curvature, blocks=blocks, provenance=provenance)
    settings = dataclasses.replace(SETTINGS, steps=2)
    vector = train(
        network, tiny_task(network, 1, torch.float32), settings, curvature=part
    )
    assert set(vector.tensors) == covered


def test_part_of_a_block_may_be_trained_alone() -> None:
    vector = train_tiny(steps=3, modules=("last.weight",))
    assert set(vector.tensors) == {"last.weight"}
    assert vector.metrics["penalty"] >= 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("nothing*", "the model has none"), ("unused*", "the model has none")],
)
def test_pattern_that_fits_nothing_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(CoverageError, match=message):
        train_tiny(modules=(pattern,))


def test_pattern_that_curvature_does_not_cover_is_refused() -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(2))
    blocks = {"last": curvature.blocks["last"]}
    base = curvature.provenance.base.restrict({"last.weight", "last.bias"})
    provenance = dataclasses.replace(curvature.provenance, base=base)
    part = dataclasses.replace(curvature, blocks=blocks, provenance=provenance)
    settings = dataclasses.replace(SETTINGS, modules=("first*",))
    with pytest.raises(CoverageError, match="the curvature does not cover any"):
        train(network, tiny_task(network, 1, torch.float32), settings, curvature=part)


def test_curvature_of_another_model_is_refused_with_all_differences() -> None:
    network, other = tiny_network(), tiny_network(seed=9)
    curvature = tiny_curvature(other, tiny_points(2))
    named = dataclasses.replace(curvature.provenance.output_map, name="first")
    provenance = dataclasses.replace(curvature.provenance, output_map=named)
    wrong = dataclasses.replace(curvature, provenance=provenance)
    with pytest.raises(
        MismatchError, match=r"(?s)other values in .*output map is first"
    ):
        train(network, tiny_task(network, 1, torch.float32), SETTINGS, curvature=wrong)


def test_module_weight_of_zero_frees_a_module() -> None:
    held = train_tiny()
    freed = train_tiny(penalty=PenaltySettings(1.0, module_weights={"*": 0.0}))
    assert freed.metrics["loss"] < held.metrics["loss"]


def test_divergence_says_so() -> None:
    with pytest.raises(SettingsError, match="diverged: the penalty of first"):
        train_tiny(learning_rate=1e30)
    with pytest.raises(SettingsError, match="diverged: the loss"):
        train_tiny(learning_rate=1e30, curved=False)


def test_curvature_that_rewards_drift_is_refused_unless_it_is_allowed() -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(2))
    (name, *_) = curvature.blocks["last"].factors
    bad = Dense(curvature.factors[name].to_dense() - 100 * torch.eye(7))
    curvature = with_factors(curvature, {name: bad})
    task = tiny_task(network, 1, torch.float32)
    settings = dataclasses.replace(SETTINGS, steps=1)
    with pytest.raises(FactorError, match="--allow-indefinite"):
        train(network, task, settings, curvature=curvature)
    for free in (PenaltySettings(1.0, allow_indefinite=True), PenaltySettings(0.0)):
        settings = dataclasses.replace(settings, penalty=free)
        train(network, task, settings, curvature=curvature)
