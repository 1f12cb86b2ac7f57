"""Which parameters are trained: those that f reaches and that may move."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch

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


def reached_parameters(network: Network, batch: Batch) -> list[str]:
    """Name the parameters that f depends on."""
    values = {
        n: p.detach().requires_grad_(p.is_floating_point())
        for n, p in network.parameters().items()
    }
    moving = {n: value for n, value in values.items() if value.requires_grad}
    with torch.enable_grad():
        output = network.functional_call(values, batch).sum()
        grads = torch.autograd.grad(output, list(moving.values()), allow_unused=True)
    return [n for n, grad in zip(moving, grads, strict=True) if grad is not None]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
