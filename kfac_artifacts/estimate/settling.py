"""Sums of outer products that rounding has left slightly indefinite.

Where an input is nearly the same for all examples, as borders of images and massive
activations are, one eigenvalue outweighs all others, and the rounding of long sums,
small beside that one, may be more than the smallest are.
"""

import logging

import torch

from kfac_artifacts.errors import listed
from kfac_artifacts.estimate.estimators.base import Estimate
from kfac_artifacts.factors import MOST_ROWS, Factor, dear_rows, lowest, rounding

logger = logging.getLogger(__name__)
BY_ROUNDING = 1e-3
"""How negative λ_min / λ_max may be for rounding to be the reason."""
LEAST = rounding(exact=True) / 2
"""How negative it may stay: half of what a verifier reports of exact factors."""


def settle(found: Estimate) -> None:
    """Raise the diagonals of factors that rounding has made indefinite, and say so.

    Args:
        found: What was estimated; such factors are replaced. What is more negative than
            rounding explains stays, for the writer to refuse.
    """
    single = {f for b in found.blocks.values() if not b.is_sum for f in b.factors}
    raised: dict[str, float] = {}
    for held in (found.start, found.factors):
        for name in [name for name in held if name in single]:
            ratio, held[name] = _raised(held[name])
            if ratio < 0:
                raised[name] = ratio
    if raised:
        logger.warning(
            "rounding left %d factors with an eigenvalue below zero, down to %.1g of "
            "the largest, and their diagonals were raised by as much: %s",
            len(raised),
            min(raised.values()),
            listed([*raised]),
        )


def _raised(factor: Factor) -> tuple[float, Factor]:
    """The eigenvalue ratio that was mended, or 0, and the factor."""
    if dear_rows(factor) > MOST_ROWS:
        return 0.0, factor
    ratio = lowest(factor, LEAST)
    if not -BY_ROUNDING <= ratio < -LEAST:
        return 0.0, factor
    low, _ = factor.to(dtype=torch.float64).eigenvalue_range()
    return ratio, factor.add_diagonal(-low)
