"""What an artifact says of how it was computed, whoever computed it."""

from collections.abc import Mapping

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
        uncovered=in_order(network, inventory.uncovered | constants_of(network)),
    )


def in_order(network: Network, reasons: Mapping[str, str]) -> dict[str, str]:
    """Put reasons in the order of the parameters, however the layers were gone through.

    Args:
        network: The network.
        reasons: By parameter.

    Returns:
        The same.
    """
    names = [name for name in network.parameters() if name in reasons]
    return {name: reasons[name] for name in names} | dict(reasons)
