"""The gradient that a penalty adds by itself, against autograd of formed matrices."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import Artifact, NamedConfig
from kfac_artifacts.choices import ESTIMATORS, PENALTIES, REGIMES
from kfac_artifacts.errors import FactorError, MismatchError
from kfac_artifacts.estimate import choose_estimator
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.penalty import KfacPenalty, leaves
from kfac_artifacts.train import Others, PenaltySettings, choose_regime
from kfac_artifacts.train.regimes.talos import Talos
from tests.artifacts import artifact, dense_block, tau
from tests.computed import compute
from tests.estimate.test_nearest import tiny
from tests.test_penalty_compressed import FORMS, STORED, small
from tests.tiny_task import tiny_curvature, tiny_network, tiny_points

DOUBLE = torch.float64


def formed(of: Artifact, changes: Any) -> Tensor:
    """The penalty with every block's matrix written out."""
    total = torch.zeros(())
    for name, block in of.blocks.items():
        w = block.gather(changes).flatten()
        matrix = dense_block(of, name)
        if len(matrix) < len(w):  # of inputs alone: B is the identity
            matrix = torch.kron(torch.eye(len(w) // len(matrix)), matrix)
        total = total + block.scale(of.provenance.tasks) * w @ matrix.to(w.dtype) @ w
    return total


def drawn(shapes: Any, dtype: torch.dtype = DOUBLE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", STORED)
def test_it_is_that_of_every_structure(form: str, stored: str) -> None:
    of = small(form, stored)
    ours, theirs = (
        {n: t.requires_grad_() for n, t in tau(0, torch.float32).items()}
        for _ in range(2)
    )
    value = KfacPenalty(of).backward(ours, 3.0)
    expected = formed(of, theirs)
    (3 * expected).backward()
    torch.testing.assert_close(value, expected.detach())
    for name, change in ours.items():
        torch.testing.assert_close(change.grad, theirs[name].grad)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_is_that_of_every_estimator_and_of_merged_tasks(estimator: str) -> None:
    network, _ = tiny()
    parts = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(1, 6, (6 + seed, 5), generator=generator)
        batch = {"ids": ids, "attention_mask": torch.ones_like(ids)}
        data = TensorExamples(batch, f"data{seed}")
        parts.append(compute(network, data, estimator=choose_estimator(estimator)))
    of = merge(parts)
    ours, theirs = drawn(of.parameters), drawn(of.parameters)
    value = KfacPenalty(of).backward(ours, 0.5)
    expected = formed(of, theirs)
    (0.5 * expected).backward()
    torch.testing.assert_close(value, expected.detach(), check_dtype=False)
    for name, change in ours.items():
        torch.testing.assert_close(change.grad, theirs[name].grad, rtol=1e-5, atol=1e-7)


def network_with_attention() -> Network:
    """The tiny network, its last layer in a module called attention."""
    network = tiny_network(DOUBLE)
    parts = dict(network.module.named_children())
    module = nn.Sequential()
    for name in ("first", "norm"):
        module.add_module(name, parts[name])
    module.add_module("attention", nn.Sequential(parts["last"]))
    f = OutputMap(NamedConfig("all"), lambda m, b: m(b["x"]))
    return Network(module, f, "tiny with attention")


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("penalty", ["kfac", "kfac-per-task"])
def test_it_reaches_what_every_regime_moves(regime: str, penalty: str) -> None:
    torch.manual_seed(0)
    network = network_with_attention()
    curvatures = tuple(
        tiny_curvature(network, tiny_points(seed, DOUBLE, count))
        for seed, count in ((2, 12), (3, 24))
    )
    settings = {"rank": 2, "alpha": 3.0} if regime == "lora" else {}
    moving = choose_regime(regime, **settings)(network, tuple(network.parameters()))
    if isinstance(moving, Talos):
        moving.masks = [torch.rand(m.shape) < 0.5 for m in moving.masks]
    with torch.no_grad():
        for parameter in moving.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=DOUBLE))
    held = PENALTIES[penalty](Others(curvatures), PenaltySettings())
    held.prepare(network, tuple(moving.tau()))
    still = {n: torch.zeros(s, dtype=DOUBLE) for n, s in network.shapes.items()}

    expected = torch.zeros((), dtype=DOUBLE)
    for held_back in moving.held_back():
        whole = {**still, **held_back}
        if penalty == "kfac":
            expected = expected + formed(merge(curvatures), whole)
        else:
            first, second = (formed(c, whole) for c in curvatures)
            expected = expected + (12 * first + 24 * second) / 36
    parameters = list(moving.parameters())
    wanted = torch.autograd.grad(7 * expected, parameters, materialize_grads=True)
    for parameter in parameters:  # of a loss before
        parameter.grad = torch.full_like(parameter, 0.25)
    for held_back in moving.held_back():
        held.backward(held_back, 7.0)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, 0.25 + gradient)


def test_what_stands_still_gets_no_gradient() -> None:
    of = artifact(1)
    changes = tau()
    changes["linear.weight"].requires_grad_()
    KfacPenalty(of).backward(changes, 2.0)
    assert changes["linear.bias"].grad is None
    expected = formed(of, changes)
    (wanted,) = torch.autograd.grad(2 * expected, changes["linear.weight"])
    torch.testing.assert_close(changes["linear.weight"].grad, wanted)


def test_a_graph_behind_a_task_vector_is_gone_through_once() -> None:
    start = torch.randn(3, dtype=DOUBLE, requires_grad=True)
    plain = torch.randn(3, dtype=DOUBLE, requires_grad=True)
    made = start.exp()
    with leaves({"made": made, "plain": plain}) as held:
        for factor in (1.0, 2.0):  # more than one penalty
            (factor * held["made"] * held["plain"]).sum().backward()
    torch.testing.assert_close(start.grad, 3 * plain.detach() * start.detach().exp())
    torch.testing.assert_close(plain.grad, 3 * made.detach())


def test_half_precision_gets_its_gradient_at_the_factors_precision() -> None:
    of = artifact(1, dtype=torch.float32)
    half = {n: t.bfloat16().requires_grad_() for n, t in tau().items()}
    exact = {n: t.detach().float().requires_grad_() for n, t in half.items()}
    KfacPenalty(of).backward(half)
    formed(of, exact).backward()
    for name, change in half.items():
        assert change.grad is not None
        assert change.grad.dtype == torch.bfloat16
        wanted = exact[name].grad
        torch.testing.assert_close(change.grad.float(), wanted, rtol=1e-2, atol=1e-2)


def test_task_vectors_of_something_else_and_infinite_ones_are_refused() -> None:
    penalty = KfacPenalty(artifact(1))
    with pytest.raises(MismatchError, match="none of the parameters"):
        penalty.backward({"other": torch.zeros(3)})
    with pytest.raises(MismatchError, match=r"lacks linear\.bias"):
        penalty.backward({"linear.weight": torch.zeros(3, 4)})
    infinite = {"norm.weight": torch.full_like(tau()["norm.weight"], torch.inf)}
    with pytest.raises(FactorError, match=r"the penalty of norm\.weight is"):
        penalty.backward(infinite)
