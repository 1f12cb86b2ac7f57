"""``2 w √p`` and its derivatives are those of the graph of its parts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.sources.distribution_maps import roots

F64 = torch.float64


def by_parts(logits: Tensor, weights: Tensor) -> Tensor:
    return 2 * (0.5 * logits.log_softmax(-1)).exp() * weights[..., None]


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, weights of which one is nothing, and two directions."""
    generator = torch.Generator().manual_seed(0)
    z, s, v = (torch.randn(3, 2, 5, generator=generator, dtype=F64) for _ in range(3))
    weights = torch.tensor([[1.0, 0.3], [0.0, 2.0], [0.5, 1.0]], dtype=F64)
    return z, weights, s, v


def test_values_and_first_derivatives_are_the_same_in_both_modes(
    case: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    z, w, s, v = case
    for function in (torch.func.vjp, torch.func.jvp):
        one, two = (_derived(function, f, z, w, s, v) for f in (roots, by_parts))
        torch.testing.assert_close(one, two)


def _derived(function: Any, f: Any, z: Tensor, w: Tensor, s: Tensor, v: Tensor) -> Any:
    if function is torch.func.jvp:
        return function(lambda x: f(x, w), (z,), (v,))
    value, pull = function(lambda x: f(x, w), z)
    return value, pull(s)[0], torch.func.vmap(pull)(torch.stack([s, v]))[0]


def test_a_second_derivative_is_the_same(
    case: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    z, w, s, v = case
    found = []
    for f in (roots, by_parts):
        x = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(x, w), x, s, create_graph=True)
        found += [*torch.autograd.grad(slope, x, v)]
    torch.testing.assert_close(found[0], found[1])


def test_a_probability_of_nothing_has_a_finite_derivative() -> None:
    z = torch.tensor([[0.0, -300.0]], requires_grad=True)
    f = roots(z, torch.ones(1))
    (slope,) = torch.autograd.grad(f, z, torch.ones_like(f))
    assert slope.isfinite().all()


def test_half_precision_has_wide_roots_and_gradients_of_its_own() -> None:
    z = torch.randn(2, 4, dtype=torch.bfloat16, requires_grad=True)
    f = roots(z, torch.ones(2))
    (slope,) = torch.autograd.grad(f, z, torch.ones_like(f))
    assert f.dtype == torch.float32
    assert slope.dtype == torch.bfloat16
