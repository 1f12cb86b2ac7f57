"""What a budget may choose: recipes with their bytes and their error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kfac_artifacts.compress.recipes import Recipe


@dataclass(frozen=True)
class Candidate:
    """Recipes for one factor, or for some that go together.

    Attributes:
        recipes: By factor.
        nbytes: What all of them take, in bytes.
        loss: Squared relative error.
    """

    recipes: Mapping[str, Recipe]
    nbytes: int
    loss: float


def hull(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates by size, each better per byte than what could be had between.

    Args:
        candidates: Any, at least one.

    Returns:
        The lower convex hull of error over bytes.
    """
    kept: list[Candidate] = []
    for point in sorted(candidates, key=lambda each: (each.nbytes, each.loss)):
        if kept and point.loss >= kept[-1].loss:
            continue
        while len(kept) > 1 and gain(kept[-1], point) >= gain(kept[-2], kept[-1]):
            kept.pop()
        kept.append(point)
    return kept


def gain(one: Candidate, other: Candidate) -> float:
    """Squared error that every byte more takes away."""
    return (one.loss - other.loss) / (other.nbytes - one.nbytes)
