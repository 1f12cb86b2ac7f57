"""Several cotangents at once: one backward pass of a small batch leaves a machine idle.

``torch.vmap`` pulls K cotangents of every example back together, so that each product
of the backward pass has K times as many rows. What has no batching rule cannot be
done so; that is tried on the first batch, and then they are pulled back one by one.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SLOW = "performance drop"


class _Leave(torch.autograd.Function):
    """Out of vmap: from a cotangent in there to all K of them out here."""

    @staticmethod
    def forward(g: Tensor, count: int, tell: Callable[[Tensor], None]) -> Tensor:
        """Tell of a cotangent that is the same for all K."""
        tell(g.expand(count, *g.shape))
        return g.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        g: Tensor,
        count: int,
        tell: Callable[[Tensor], None],
    ) -> tuple[Tensor, None]:
        """Tell of all K."""
        axis = in_dims[0]
        assert axis is not None  # noqa: S101 - else there would be nothing to batch
        tell(g.movedim(axis, 0))
        return g.new_empty(0), None


def leave(g: Tensor, count: int, tell: Callable[[Tensor], None]) -> None:
    """Call ``tell`` with ``[K, *g.shape]`` from inside of ``vjp``."""
    _Leave.apply(g, count, tell)  # type: ignore[no-untyped-call]


def vjp(
    f: Float[Tensor, "n c"],
    leaves: Sequence[Tensor],
    S: Float[Tensor, "k n c"],
    *,
    retain: bool,
    given: Sequence[Tensor] = (),
) -> list[Tensor]:
    """Pull K cotangents of every example back at once; hooks see them one batch.

    Args:
        f: What is differentiated.
        leaves: With respect to what.
        S: The cotangents.
        retain: Whether the graph is kept.
        given: The first ones of the leaves, whose gradients are given back.

    Returns:
        The gradients of those, ``[K, *shape]`` each.

    Raises:
        RuntimeError: If an operation cannot be batched.
    """

    def pull(s: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(
            f, leaves, s, retain_graph=retain, allow_unused=True
        )
        return (s, *filled(given, found))

    return list(torch.vmap(pull)(S)[1:])


def filled(
    leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> list[Tensor]:
    """The gradients of the first leaves; zero where f does not depend on them."""
    return [
        torch.zeros_like(leaf) if g is None else g
        for leaf, g in zip(leaves, gradients, strict=False)
    ]


def can_be_batched(f: Float[Tensor, "n c"], leaves: Sequence[Tensor]) -> bool:
    """Whether every operation from the leaves to f has a batching rule."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            vjp(f, leaves, f.new_zeros(2, *f.shape), retain=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return False
    return not any(SLOW in str(warning.message) for warning in caught)
