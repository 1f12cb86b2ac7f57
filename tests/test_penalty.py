"""The penalty (TAK, Eq. 7): value and gradient against formed Kronecker products."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.merge import merge
from kfac_artifacts.penalty import KfacPenalty
from tests.artifacts import artifact, dense_block, renamed, tau


def brute_force(
    of: Artifact, task_vector: dict[str, Tensor], scale: Callable[..., Any]
) -> Tensor:
    total = torch.tensor(0.0)
    for name, block in of.blocks.items():
        w = block.gather(task_vector).flatten()
        total = total + scale(block) * w @ dense_block(of, name) @ w
    return total


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), tasks=st.integers(1, 4))
def test_value_and_gradient_are_those_of_the_quadratic_form(
    seed: Any, tasks: Any
) -> None:
    of = merge([artifact(seed + i, 10 + i) for i in range(tasks)])
    given_tau = {n: t.requires_grad_() for n, t in tau(seed).items()}
    other_tau = {n: t.requires_grad_() for n, t in tau(seed).items()}
    for scale, factor in (("mean", lambda b: b.scale(tasks)), ("sum", lambda _: 1.0)):
        value = KfacPenalty(of, scale=scale)(given_tau)
        expected = brute_force(of, other_tau, factor)
        torch.testing.assert_close(value, expected)
        found = torch.autograd.grad(3 * value, list(given_tau.values()))
        wanted = torch.autograd.grad(3 * expected, list(other_tau.values()))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_mean_scale_does_not_depend_on_the_number_of_equal_tasks() -> None:
    one = artifact(1)
    many = merge([renamed(one, f"copy{i}") for i in range(5)])
    torch.testing.assert_close(KfacPenalty(one)(tau()), KfacPenalty(many)(tau()))


def test_value_is_the_drift_that_the_artifact_estimates() -> None:
    of = merge([artifact(1), artifact(2)])
    torch.testing.assert_close(KfacPenalty(of)(tau()), of.drift(tau()))


def test_weights_multiply_the_blocks_that_they_match_first() -> None:
    of = artifact(1)
    weights = {"table": 0.1, "*": 0.0}
    only_table = KfacPenalty(of, weights=weights)(tau())
    w = of.blocks["table"].gather(tau()).flatten()
    torch.testing.assert_close(only_table, 0.1 * w @ dense_block(of, "table") @ w)


def test_blocks_that_are_not_trained_count_as_unchanged() -> None:
    of = artifact(1)
    part = {"norm.weight": tau()["norm.weight"]}
    zeros = {n: torch.zeros_like(t) for n, t in tau().items()} | part
    torch.testing.assert_close(KfacPenalty(of)(part), KfacPenalty(of)(zeros))


def test_half_precision_task_vectors_are_penalised_at_the_factors_precision() -> None:
    of = artifact(1, dtype=torch.float32)
    half = {n: t.bfloat16().requires_grad_() for n, t in tau().items()}
    value = KfacPenalty(of)(half)
    exact = KfacPenalty(of)({n: t.detach().float() for n, t in half.items()})
    torch.testing.assert_close(value, exact)
    value.backward()
    assert half["linear.weight"].grad.dtype == torch.bfloat16


def test_gradient_passes_a_finite_difference_check() -> None:
    of = artifact(1)
    names = list(tau())
    penalty = KfacPenalty(of)
    torch.autograd.gradcheck(
        lambda *values: penalty(dict(zip(names, values, strict=True))),
        [t.requires_grad_() for t in tau().values()],
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"other": torch.zeros(3)}, "none of the parameters"),
        ({"linear.weight": torch.zeros(3, 4)}, "lacks linear.bias"),
    ],
)
def test_task_vectors_of_something_else_are_refused(
    broken: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(MismatchError, match=message):
        KfacPenalty(artifact(1))(broken)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"no block is called 'head\.\*'"):
        KfacPenalty(artifact(1), weights={"head.*": 0.1})
