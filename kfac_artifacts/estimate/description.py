"""What an artifact says of how it was computed, whoever computed it."""

from kfac_artifacts.artifact import BaseModel, NamedConfig, Provenance, Source
from kfac_artifacts.capture import Inventory, constants_of
from kfac_artifacts.network import Network


def describe(
    network: Network,
    inventory: Inventory,
    *,
    base: BaseModel,
    estimator: NamedConfig,
    source: Source,
    size: int,
) -> Provenance:
    """Describe the curvature of one task.

    Args:
        network: The network.
        inventory: What was covered of it, excluded and left out.
        base: Its parameters that the blocks cover.
        estimator: How the Gramians were approximated.
        source: Which examples and cotangents.
        size: How many examples the data have.

    Returns:
        Its provenance.
    """
    return Provenance(
        base=base,
        output_map=network.output_map.info,
        estimator=estimator,
        tasks=1,
        size=size,
        sources=(source,),
        excluded=tuple(inventory.excluded),
        uncovered=inventory.uncovered | constants_of(network),
    )
