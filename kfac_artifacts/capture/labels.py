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

BLOCK = 256
"""Classes whose probabilities are summed up before one of them is looked for."""


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
        lengths = _lengths(roots)
        real = lengths.any(1).nonzero()[:, 0]
        u = torch.rand(len(real), generator=seeded(seed), dtype=torch.float64)
        y = _draw(roots, real, lengths[real], u.to(f.device))
        length = torch.linalg.vector_norm(lengths[real], dim=1)
        target[real, y] = (length / roots[real, y]).to(f.dtype)
    return s


def _lengths(roots: Float[Tensor, "t k"]) -> Float[Tensor, "t b"]:
    """Roots of the sums of squares of blocks of classes: all is read once."""
    whole = roots.shape[1] // BLOCK * BLOCK
    parts = [roots[:, :whole].unflatten(1, (-1, BLOCK))] if whole else []
    parts += [roots[:, None, whole:]] if whole < roots.shape[1] else []
    found = [torch.linalg.vector_norm(part, dim=2).double() for part in parts]
    return torch.cat(found, dim=1)


def _draw(
    roots: Float[Tensor, "t k"],
    real: Int[Tensor, " r"],
    lengths: Float[Tensor, "r b"],
    u: Float[Tensor, " r"],
) -> Int[Tensor, " r"]:
    """The classes at u of each cumulated distribution: first the block, then within."""
    weights = lengths.square()
    block, rest = _quantiles(weights, u * weights.sum(1))
    places = block[:, None] * BLOCK + torch.arange(BLOCK, device=roots.device)
    inside = roots[real[:, None], places.clamp(max=roots.shape[1] - 1)].double()
    inside = inside.square() * (places < roots.shape[1])
    within, _ = _quantiles(inside, rest)
    return block * BLOCK + within


def _quantiles(
    weights: Float[Tensor, "r k"], wanted: Float[Tensor, " r"]
) -> tuple[Int[Tensor, " r"], Float[Tensor, " r"]]:
    """Which cumulated weight goes beyond a number, and what of it is left; never 0."""
    below = weights.cumsum(1)
    total = below[:, -1]
    wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(below, wanted[:, None], right=True)
    before = below.gather(1, found) - weights.gather(1, found)
    return found[:, 0], (wanted - before[:, 0]).clamp(min=0)
