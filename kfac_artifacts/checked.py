"""The factors of an artifact, checked before anything is computed with them.

One set of checks for penalty, operator and training, the same that ``verify`` makes.
"""

from collections.abc import Mapping

import torch

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.definiteness import check_definite
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Factor, check_factor, floats, largest

LARGEST = 2.0**100
"""Largest bound of the norm of a factor, and of a term of two: products with task
vectors of any norm up to 1e4 stay finite in float32, and no curvature comes near it."""


def checked_factors(
    artifact: Artifact,
    *,
    device: torch.device | str | None = None,
    allow_indefinite: bool = False,
) -> dict[str, Factor]:
    """Read the factors of all blocks, and refuse what must not be computed with.

    Args:
        artifact: The curvature.
        device: Device for the factors; None leaves them where they are.
        allow_indefinite: Whether a factor may be clearly indefinite.

    Returns:
        The factors by name, all in memory.

    Raises:
        FactorError: If a factor is not finite, not symmetric, so large that products
            may not be finite, or clearly indefinite; it is named.
    """
    names = dict.fromkeys(f for b in artifact.blocks.values() for f in b.factors)
    factors = {name: artifact.factors[name].to(device) for name in names}
    norms = {}
    for name, factor in factors.items():
        try:
            check_factor(factor)
        except FactorError as error:
            raise FactorError(f"{name}: {error}") from error
        norms[name] = _norm(factor)
    for name, block in artifact.blocks.items():
        _check_size(name, block, norms)
    if not allow_indefinite:
        check_definite(artifact, factors)
    return factors


def _check_size(name: str, block: Block, norms: Mapping[str, float]) -> None:
    for term in block.terms:
        total = 1.0
        for factor in term:
            total *= norms[factor]
            if not max(norms[factor], total) <= LARGEST:
                raise FactorError(
                    f"{name} is too large to compute with: its factor {factor} has a "
                    f"norm of up to {norms[factor]:.1e}, and products may be beyond "
                    "float32; no curvature is, so the file was damaged or made up"
                )


def _norm(factor: Factor) -> float:
    """A bound of the norm, from its largest entry: nothing is multiplied for it."""
    entries = [largest(floats(numbers)) for numbers in factor.fields().values()]
    return factor.dim * max(*entries, factor.sum_bound())
