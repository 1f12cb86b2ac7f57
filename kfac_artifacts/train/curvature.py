"""Whether the curvature of other tasks belongs to a network."""

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.network import Network


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
