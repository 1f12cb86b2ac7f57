"""Reading tokens and places from an A: the attack that ``privacy.py`` measures.

A layer right behind the embeddings takes one vector for every (token, place), which
anybody can compute from the public model. Its A is the mean of ``a aᵀ`` over the
positions of the data: a sum of such terms with weights that are not negative, one for
every pair that occurs. The few weights are looked for that explain A, among those of
all pairs, in A's own metric, in which its small directions count as much as its large
ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-6
"""Share of the largest eigenvalue below which a direction of A is rounding."""
POOL = 60_000
"""Pairs that are looked at closely: those that could weigh most."""
MORE = 3000
"""Pairs that are taken in at once."""
ROUNDS, STEPS = 5, 300
EXPLAINED = 1e-3
"""Gain of one more pair at which A is explained."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Inputs:
    """What the layer is given, for every pair.

    Attributes:
        at: From a place to the inputs of all tokens there, ``[V, d]``.
        places: Number of places that texts may have.
    """

    at: Callable[[int], Tensor]
    places: int

    def scores(self, metric: Tensor) -> Tensor:
        """Square of the length of every input in a metric, ``[places, V]``."""
        places = range(self.places)
        return torch.stack([(self.at(p) @ metric).square().sum(1) for p in places])

    def rows(self, pairs: Tensor) -> Tensor:
        """The inputs of some pairs ``[places, tokens]``, sorted by place."""
        numbers, counts = pairs[0].unique_consecutive(return_counts=True)
        parts = pairs[1].split(counts.tolist())
        places = zip(numbers.tolist(), parts, strict=True)
        return torch.cat([self.at(place)[tokens] for place, tokens in places])


def read_weights(A: Tensor, inputs: Inputs) -> dict[Pair, float]:
    """Find how much of A each pair explains.

    Args:
        A: Of the layer.
        inputs: What it is given.

    Returns:
        The weight of every (token, place) that has any.
    """
    values, vectors = torch.linalg.eigh(A.double())
    values = values.clamp(min=0)
    ridged = values + RIDGE * values.max()
    metric = (vectors / ridged.sqrt()).to(A.dtype)
    wanted = (values / ridged).to(A.dtype)  # A itself in its metric: diagonal
    scores = inputs.scores(metric)
    # no pair can weigh more than 1 / its score
    best = scores.flatten().topk(min(POOL, scores.numel()), largest=False).indices
    best = best.sort().values
    pairs = torch.stack([best // scores.shape[1], best % scores.shape[1]])
    Y = inputs.rows(pairs) @ metric
    weights = torch.zeros(len(Y), dtype=Y.dtype)
    for _ in range(ROUNDS):
        left = torch.diag(wanted) - (Y.mT * weights) @ Y
        gain = ((Y @ left) * Y).sum(1) / Y.square().sum(1)
        gain[weights > 0] = 0
        better = gain.topk(min(MORE, len(gain))).indices
        better = better[gain[better] > EXPLAINED]
        if not len(better):
            break
        chosen = torch.cat([weights.nonzero()[:, 0], better])
        weights.zero_()
        weights[chosen] = _not_negative(Y[chosen], wanted)
    return {
        (int(pairs[1, n]), int(pairs[0, n])): float(weights[n])
        for n in weights.nonzero()[:, 0]
    }


def claimed(
    weights: dict[Pair, float], first: int, sizes: Sequence[tuple[float, int]]
) -> set[Pair]:
    """The pairs of which it is said that they occur.

    Args:
        weights: What every pair explains.
        first: The token that begins every text, so that its weight is 1 / the mean
            length.
        sizes: Share in A, and number of examples, of every owner: the artifact says it.

    Returns:
        Those that weigh more than half of one occurrence.
    """
    begin = weights.get((first, 0), 0.0)
    once = min(share * begin / count for share, count in sizes)
    return {pair for pair, weight in weights.items() if weight > once / 2}


def _not_negative(Y: Tensor, wanted: Tensor) -> Tensor:
    """Weights of the rows of Y, none negative, whose sum of squares is nearest."""
    scale = Y.square().sum(1)
    K = (Y @ Y.mT).square() / scale[:, None] / scale
    target = (Y.square() @ wanted) / scale
    size = torch.ones_like(target)
    for _ in range(20):
        size = K @ size
        largest = size.norm()
        size = size / largest
    found = ahead = torch.zeros_like(target)
    pace = 1.0
    for _ in range(STEPS):  # Nesterov's, projected
        new = (ahead - (K @ ahead - target) / (1.02 * largest)).clamp(min=0)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead = new + (pace - 1) / faster * (new - found)
        found, pace = new, faster
    return found / scale
