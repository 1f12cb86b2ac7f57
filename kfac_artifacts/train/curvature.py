"""What the curvature of other tasks says about a training: what may move, and how far.

A parameter that the curvature does not cover is never trained: it would be free to
disturb the other tasks.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import CoverageError, MismatchError
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.penalty import KfacPenalty

Penalty: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]


def check_curvature(artifact: Artifact, network: Network) -> None:
    """Refuse curvature of another model or output map, listing all differences.

    Args:
        artifact: Curvature of other tasks.
        network: Network to be trained.

    Raises:
        MismatchError: If they do not belong together.
    """
    provenance = artifact.provenance
    differences = provenance.base.differences(network.base)
    if provenance.output_map != network.output_map.info:
        differences.append(
            f"its output map is {provenance.output_map}, the network's is "
            f"{network.output_map.info}"
        )
    if differences:
        raise MismatchError(
            f"the curvature of {provenance.base.id} does not fit {network.id}: "
            f"{'; '.join(differences)}"
        )


def choose_parameters(
    network: Network,
    curvature: Artifact | None,
    patterns: Sequence[str],
    batch: Batch,
) -> tuple[str, ...]:
    """Choose the parameters to train.

    Args:
        network: The pretrained network.
        curvature: Curvature of other tasks; only what it covers may move.
        patterns: Patterns of parameter names; none for all that may move.
        batch: Some examples, to see what f reaches.

    Returns:
        Names of parameters that f reaches and, with curvature, that are covered.

    Raises:
        CoverageError: If a pattern fits no such parameter, or nothing is left.
    """
    reached = reached_parameters(network, batch)
    covered = None if curvature is None else curvature.parameters.keys()
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


def build_penalty(
    curvature: Artifact,
    network: Network,
    names: Sequence[str],
    weights: Mapping[str, float],
    *,
    allow_indefinite: bool = False,
) -> Penalty:
    """Build the penalty on the parameters that are trained; the others stand still.

    Args:
        curvature: Curvature of other tasks.
        network: Network to be trained.
        names: The parameters that are trained.
        weights: Factor by pattern of block names.
        allow_indefinite: Whether a factor may be clearly indefinite.

    Returns:
        The penalty as a function of the task vector.

    Raises:
        FactorError: If a factor must not be computed with, as ``verify`` tells.
    """
    blocks = {
        n: b
        for n, b in curvature.blocks.items()
        if not set(names).isdisjoint(b.parameters)
    }
    # only their factors are read and held in memory
    penalty = KfacPenalty(
        dataclasses.replace(curvature, blocks=blocks),
        weights=weights,
        device=network.device,
        allow_indefinite=allow_indefinite,
    )
    parameters = network.parameters()
    still = {
        name: torch.zeros_like(parameters[name], requires_grad=False)
        for name in penalty.parameters
        if name not in names
    }
    return lambda tau: penalty({**still, **tau})


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
