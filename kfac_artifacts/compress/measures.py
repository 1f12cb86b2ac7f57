"""What artifacts tell of the fitness of their factors, and the worst of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from kfac_artifacts.artifact import Loss

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact
else:
    Artifact = object  # a header is judged without torch

MEASURES: Mapping[str, float] = {
    "inverse_error": 0.0,
    "null_overlap": 1.0,
    "diagonal_error": 0.0,
}
"""Measures of ``Loss`` by name, with what they are where nothing was lost."""


@dataclass(frozen=True)
class Spread:
    """A measure over the factors of an artifact.

    Attributes:
        worst: The largest error or the smallest overlap; None if there is none.
        factor: Whose that is.
        median: Over the factors of which it is known.
        unknown: Of how many factors it is not known, or does not exist.
    """

    worst: float | None
    factor: str | None
    median: float | None
    unknown: int


def measured(loss: Loss | None, measure: str) -> float | None:
    """What is known of a factor: that of a factor without a loss is perfect.

    Args:
        loss: What compressing the factor lost.
        measure: One of ``MEASURES``.

    Returns:
        The number; None if it is not known, or does not exist.
    """
    found: float | None = MEASURES[measure] if loss is None else getattr(loss, measure)
    return found


def worse(measure: str) -> Callable[[float], float]:
    """Give the key by which larger is worse: how far a measure is from perfect."""
    perfect = MEASURES.get(measure, 0.0)
    return lambda number: abs(number - perfect)


def worst(artifact: Artifact, names: Iterable[str]) -> dict[str, float | None]:
    """Find the worst of some factors.

    Args:
        artifact: The compressed artifact.
        names: Of the factors.

    Returns:
        By measure; None if it is known of none of them.
    """
    losses = [artifact.provenance.losses.get(name) for name in names]
    found = {}
    for measure in MEASURES:
        numbers = [measured(loss, measure) for loss in losses]
        known = [number for number in numbers if number is not None]
        found[measure] = max(known, key=worse(measure), default=None)
    return found


def spreads(artifact: Artifact) -> dict[str, Spread]:
    """Find the worst and the median over all factors of an artifact.

    Args:
        artifact: The compressed artifact.

    Returns:
        By measure.
    """
    return {measure: _spread(artifact, measure) for measure in MEASURES}


def _spread(artifact: Artifact, measure: str) -> Spread:
    losses = artifact.provenance.losses
    numbers = {name: measured(losses.get(name), measure) for name in artifact.factors}
    known = {name: number for name, number in numbers.items() if number is not None}
    if not known:
        return Spread(None, None, None, len(numbers))
    key = worse(measure)
    factor = max(known, key=lambda name: key(known[name]))
    middle = median(known.values())
    return Spread(known[factor], factor, middle, len(numbers) - len(known))
