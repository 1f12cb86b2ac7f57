"""Sums of factors, in the structure that they share where that is possible."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.factors import FACTORS, Dense, Factor, weighted


@dataclass(frozen=True)
class Sum:
    """A weighted sum of factors in float64, and what bringing it into form lost.

    Attributes:
        factor: The sum.
        lost: Frobenius norm of what was left out.
        lift: What was added to the diagonal, so that no eigenvalue is negative.
    """

    factor: Factor
    lost: float = 0.0
    lift: float = 0.0


def shared_structure(factors: Sequence[NamedConfig], dim: int) -> NamedConfig | None:
    """Say in which structure a sum can stay.

    Args:
        factors: Structures of the summands.
        dim: Their size.

    Returns:
        The structure; permuted blocks must also have one permutation. None if the sum
        is dense.
    """
    name = factors[0].name
    if any(structure.name != name for structure in factors):
        return None
    summands = [structure.configuration for structure in factors]
    found = FACTORS[name].sum_configuration(summands, dim)
    return None if found is None else NamedConfig(name, found)


def combine(factors: Sequence[Factor], weights: Sequence[float]) -> Sum:
    """Add factors up, with weights.

    Blocks of the same coordinates stay blocks and diagonals diagonals, exactly.
    Low-rank factors are joined and cut to the largest of their ranks; the diagonal of
    what is cut off goes into theirs. Anything else becomes dense.

    Args:
        factors: Factors of one size.
        weights: As many numbers, negative for what is taken out.

    Returns:
        The sum; low-rank ones are semidefinite again, whatever was taken out.
    """
    if not any(isinstance(factor, Dense) for factor in factors):
        first, *others = (factor.to(dtype=torch.float64) for factor in factors)
        found = first.weighted_sum(others, weights)
        if found is not None:
            return Sum(*found)
    wide = (factor.to(dtype=torch.float64).to_dense() for factor in factors)
    return Sum(Dense(weighted(wide, weights)))  # one of them in memory at a time


def norm(factor: Factor) -> float:
    """The Frobenius norm."""
    return float(factor.inner(factor).clamp(min=0).sqrt())
