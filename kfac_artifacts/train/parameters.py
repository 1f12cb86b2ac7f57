"""Which parameters are trained: those that f reaches and that may move."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from kfac_artifacts.capture import reached_parameters
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.network import Batch, Network


def choose_parameters(
    network: Network,
    covered: Collection[str] | None,
    patterns: Sequence[str],
    batch: Batch,
) -> tuple[str, ...]:
    """Choose the parameters to train.

    Args:
        network: The pretrained network.
        covered: Names of the parameters that may move; None for all.
        patterns: Patterns of parameter names; none for all that may move.
        batch: Some examples, to see what f reaches.

    Returns:
        Names of parameters that f reaches and that may move.

    Raises:
        CoverageError: If a pattern fits no such parameter, or nothing is left.
    """
    reached = reached_parameters(network, batch)
    names = [n for n in reached if covered is None or n in covered]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            fits = any(fnmatchcase(name, pattern) for name in reached)
            why = "the curvature does not cover any" if fits else "the model has none"
            raise CoverageError(
                f"no parameter like {pattern!r} can be trained: {why}; parameters are "
                f"named as {', '.join(names[:3])}"
            )
    chosen = [n for n in names if not patterns or _fits(n, patterns)]
    if not chosen:
        raise CoverageError(
            "nothing can be trained: the curvature covers no parameter that the output "
            f"map {network.output_map.info.name} of {network.id} depends on"
        )
    return tuple(chosen)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
