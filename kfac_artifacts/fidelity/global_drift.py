"""Whole directions, in which all blocks take part: the exact drift by forward mode."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.capture import Run
from kfac_artifacts.fidelity.agreement import agreement
from kfac_artifacts.fidelity.block_errors import MeasuredBlock, observed
from kfac_artifacts.fidelity.directions import Direction
from kfac_artifacts.fidelity.results import Directions
from kfac_artifacts.linearize import jvp


def true_drifts(
    run: Run, parameters: Sequence[str], along: Sequence[Direction]
) -> list[Float[Tensor, " n"]]:
    """Evaluate ``‖J(x) τ‖²`` of every held-out example, for every direction.

    Args:
        run: The held-out examples.
        parameters: The parameters that may move.
        along: Directions.

    Returns:
        One vector for every direction, float64, on the CPU.
    """
    found = []
    with run.progress("moving along", len(along) * len(run.sample)) as advance:
        for direction in along:
            tau = direction.parts(parameters)
            squares = []
            for loaded in run.sample.batches():
                _, change = jvp(run.network, tau, loaded.batch)
                squares.append(change.double().square().sum(1).cpu())
                advance(len(loaded.ordinals))
            found.append(torch.cat(squares))
    return found


def compare_directions(
    along: Sequence[Direction],
    true: Sequence[Tensor],
    blocks: Sequence[MeasuredBlock],
) -> Mapping[str, Directions]:
    """Put what the blocks predict together beside the true drifts, by kind.

    Args:
        along: Directions.
        true: ``‖J(x) τ‖²`` of every example, for every direction.
        blocks: All blocks.

    Returns:
        The directions by kind.
    """
    found = {}
    for kind in dict.fromkeys(direction.kind for direction in along):
        total = [
            observed(direction.name, _predicted(blocks, number), true[number])
            for number, direction in enumerate(along)
            if direction.kind == kind
        ]
        parts = [
            drift for block in blocks for drift in block.by_kind(along).get(kind, [])
        ]
        found[kind] = Directions(total, agreement(parts))
    return found


def _predicted(blocks: Sequence[MeasuredBlock], number: int) -> float:
    drifts = [block.drifts.get(number) for block in blocks]
    return sum((drift.predicted for drift in drifts if drift is not None), 0.0)
