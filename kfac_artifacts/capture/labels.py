"""Labels drawn from the distributions that an f is made of, as cotangents of f.

With ``f = c · 2 √p`` a unit vector at class y over ``√p_y`` is pulled back to the
logits as ``c · (onehot(y) - p)``: the gradient of the loss of a label y. So nothing but
labels has to be drawn, whatever the number of classes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kfac_artifacts.seeding import seeded

AT_ONCE = 2**22
"""Probabilities that are summed up at once: 32 MiB of float64."""


def label_cotangents(
    f: Float[Tensor, "n c"], classes: int, seeds: Sequence[str]
) -> Float[Tensor, "n c"]:
    """Draw a label from every distribution.

    Args:
        f: Distributions of each example, ``2 √p`` times any factor, one after another;
            zeros where an example has no more of them.
        classes: Number of classes of each.
        seeds: A seed for each example.

    Returns:
        ``1 / √p_y`` at the labels y and 0 elsewhere; 0 where there is no distribution.
    """
    s = torch.zeros_like(f)
    for row, drawn, seed in zip(f, s, seeds, strict=True):
        roots, target = row.view(-1, classes), drawn.view(-1, classes)
        real = roots.any(1).nonzero()[:, 0]
        u = torch.rand(len(real), generator=seeded(seed), dtype=torch.float64)
        step = max(1, AT_ONCE // classes)
        for places, numbers in zip(real.split(step), u.split(step), strict=True):
            some = roots[places].double()
            y = _quantiles(some.square(), numbers.to(f.device))
            lengths = torch.linalg.vector_norm(some, dim=1)
            target[places, y] = (lengths / some[range(len(y)), y]).to(f.dtype)
    return s


def _quantiles(
    weights: Float[Tensor, "t k"], u: Float[Tensor, " t"]
) -> Int[Tensor, " t"]:
    """The classes at u of each cumulated distribution; never one of weight zero."""
    below = weights.cumsum(1)
    total = below[:, -1]
    wanted = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(below, wanted[:, None], right=True)[:, 0]
