"""Conjugate gradients, preconditioned by the diagonal, for many right-hand sides.

Hestenes & Stiefel 1952; Golub & Van Loan, *Matrix Computations*, Alg. 11.5.1. Each
right-hand side has step sizes of its own. When the recursively updated residuals say
that all are solved, the true residuals are formed, and the method starts again from
there if rounding has let the two drift apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.errors import FactorError


@dataclass(frozen=True)
class Solver:
    """When conjugate gradients stop.

    Attributes:
        tolerance: Largest residual ``‖b - K x‖``, as a share of ``‖b‖``; None is the
            square root of the rounding error: 1.5e-8 in float64, 3.5e-4 in float32.
        iterations: Products with the block at most.
    """

    tolerance: float | None = None
    iterations: int = 1000


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Float[Tensor, "o i k"],
    scaling: Float[Tensor, "o i 1"],
    solver: Solver,
    *,
    name: str,
) -> Float[Tensor, "o i k"]:
    """Solve ``K x = b`` for a symmetric positive definite K.

    Args:
        product: ``x -> K x``.
        b: Right-hand sides, ``k`` of them.
        scaling: The diagonal of K.
        solver: When to stop.
        name: What to call K in an error.

    Returns:
        The solutions; each has a true residual within the tolerance.

    Raises:
        FactorError: If that is not reached within the iterations.
    """
    x, r = torch.zeros_like(b), b
    tolerance = solver.tolerance or torch.finfo(b.dtype).eps ** 0.5
    target = tolerance * _norm(b)
    left = solver.iterations
    while not bool((_norm(r) <= target).all()):
        if left <= 0:
            worst = _ratio(_norm(r), _norm(b)).max().item()
            raise FactorError(
                f"{name}: conjugate gradients stopped after {solver.iterations} "
                f"products at the relative residual {worst:.1e}, not "
                f"{tolerance:.1e}; add damping, allow more iterations, or ask "
                "for less"
            )
        step, used = _descend(product, r, scaling, target, left)
        x, left = x + step, left - used
        r = b - product(x)
    return x


def _descend(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    scaling: Tensor,
    target: Tensor,
    iterations: int,
) -> tuple[Tensor, int]:
    """Run until the recursive residuals are small; count the products, plus one."""
    x, r = torch.zeros_like(b), b
    z = r / scaling
    p, rho = z, _dot(r, z)
    used = 1  # the true residual afterwards
    while used < iterations and not bool((_norm(r) <= target).all()):
        q = product(p)
        alpha = _ratio(rho, _dot(p, q))
        x, r = x + alpha * p, r - alpha * q
        z = r / scaling
        before, rho = rho, _dot(r, z)
        p = z + _ratio(rho, before) * p
        used += 1
    return x, used


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=(0, 1))


def _norm(x: Tensor) -> Tensor:
    return x.square().sum(dim=(0, 1)).sqrt()


def _ratio(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``, or 0 for what is solved exactly."""
    return torch.where(y > 0, x / y.where(y > 0, 1.0), 0.0)
