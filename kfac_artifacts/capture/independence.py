"""Refusal of an f whose value for an example depends on the others of its batch.

Of such an f neither the Jacobian nor the curvature of an example is defined, nor what
is predicted for it: they would change with the batch size. Padding is the usual cause,
statistics of the batch another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from kfac_artifacts.capture.hooks import requiring_gradients
from kfac_artifacts.capture.sample import FEW
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.network import Examples, Network, OutputMap

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}
"""How far f of an example may be off in a batch, as a share of itself, by type."""
HALF_PRECISION = 0.1


def require_independence(
    network: Network, examples: Examples, indices: Sequence[int]
) -> None:
    """Check on the shortest and the longest of a few that f is the same alone.

    Args:
        network: The network.
        examples: The dataset.
        indices: Numbers of the chosen examples.

    Raises:
        CoverageError: If f of an example depends on the others, by more than rounding.
    """
    pair = pair_to_compare(examples, indices) if indices else []
    with torch.no_grad(), requiring_gradients(network, wanted=False):
        outputs = [network(examples.batch(few)) for few in batches_to_compare(pair)]
    require_same_alone(network.output_map, pair, outputs)


def batches_to_compare(pair: Sequence[int]) -> list[list[int]]:
    """The batches of some examples on which f is compared: together, then alone."""
    return [[*pair], *([index] for index in pair)] if pair else []


def require_same_alone(
    output_map: OutputMap, pair: Sequence[int], outputs: Sequence[Tensor]
) -> None:
    """Check that f is the same alone; see ``require_independence``.

    Args:
        output_map: The function f.
        pair: Numbers of the examples.
        outputs: Its values for ``batches_to_compare``.

    Raises:
        CoverageError: If f of an example depends on the others, by more than rounding.
    """
    together, *others = outputs or [torch.empty(0)]
    for index, among, alone in zip(pair, together, others, strict=True):
        require_same(output_map, alone[0], among, f"example {index}")


def pair_to_compare(examples: Examples, indices: Sequence[int]) -> list[int]:
    """Choose the shortest and the longest of a few examples; none if they are one.

    Args:
        examples: The dataset.
        indices: Numbers of the chosen examples.

    Returns:
        Their numbers.
    """
    few = [*indices[:: max(1, len(indices) // FEW)], indices[-1]]
    lengths = _lengths(examples, list(dict.fromkeys(few)))
    chosen = sorted(lengths, key=lambda index: lengths[index])
    pair = [chosen[0], chosen[-1]]
    return [] if pair[0] == pair[1] else pair


def require_same(
    output_map: OutputMap, alone: Tensor, among: Tensor, what: str
) -> None:
    """Check that f of an example is what it is in a batch of its own.

    Args:
        output_map: The function f.
        alone: Its value in a batch of its own.
        among: Its value among others.
        what: What to call the example in the error.

    Raises:
        CoverageError: If they differ by more than rounding.
    """
    tolerance = TOLERANCES.get(alone.dtype, HALF_PRECISION)
    if output_map.ragged:  # zeros stand behind the numbers of shorter examples
        alone = pad(alone, (0, len(among) - len(alone)))
    size = torch.linalg.vector_norm(alone.double())
    off = torch.linalg.vector_norm(among.double() - alone.double())
    if off <= tolerance * size or not among.isfinite().all():
        return  # that f is not finite is reported where it is computed
    raise CoverageError(
        f"the output map {output_map.info.name!r} depends on the batch: of {what} it "
        f"differs by {off / size:.1%} between a batch of its own and one with others. "
        "So no example has a curvature or a prediction of its own; choose another "
        "with --output-map (output_map=), or give examples of one length"
    )


def _lengths(examples: Examples, indices: Sequence[int]) -> dict[int, int]:
    """How many real positions each has; without a mask, numbers of its own batch."""
    batch = examples.batch(indices)
    if "attention_mask" in batch:
        counts = batch["attention_mask"].sum(1).tolist()
        return dict(zip(indices, counts, strict=True))
    # what is filled up for a longer one is found without a mask, too
    own = ([*examples.batch([index]).values()] for index in indices)
    return {i: sum(t.numel() for t in b) for i, b in zip(indices, own, strict=True)}
