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
from kfac_artifacts.capture.sample import pair_to_prove
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
    pair = pair_to_prove(examples, indices) if indices else []
    if len({*pair}) > 1:
        with torch.no_grad(), requiring_gradients(network, wanted=False):
            together = network(examples.batch(pair))
        require_same_alone(network, examples, pair, together)


def require_same_alone(
    network: Network, examples: Examples, pair: Sequence[int], together: Tensor
) -> None:
    """Check that f of examples is what it is in a batch of their own.

    Args:
        network: The network.
        examples: The dataset.
        pair: Numbers of the examples; if one stands twice, there is nothing to compare.
        together: Its values for both in one batch.

    Raises:
        CoverageError: If f of an example depends on the others, by more than rounding.
    """
    if len({*pair}) < len(pair):
        return
    for index, among in zip(pair, together, strict=True):
        with torch.no_grad(), requiring_gradients(network, wanted=False):
            (alone,) = network(examples.batch([index]))
        require_same(network.output_map, alone, among, f"example {index}")


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
