"""A network with task vectors added to it, and whether they belong to it."""

import logging
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import NamedConfig, preprocessing_differences
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.network import Batch, Examples, Network
from kfac_artifacts.task_vector import TaskVector

logger = logging.getLogger(__name__)


def check_vector(
    network: Network, name: str, vector: TaskVector, examples: Examples
) -> None:
    """Refuse a task vector of another model or output map; warn of other inputs.

    Args:
        network: The pretrained network.
        name: What to call the task vector.
        vector: The task vector.
        examples: What it is used on.

    Raises:
        MismatchError: If it is of another model or output map.
    """
    vector.check_base(network)
    if vector.output_map is not None and vector.output_map != network.output_map.info:
        raise MismatchError(
            f"{name} was trained for the output map {vector.output_map}, the "
            f"network's is {network.output_map.info}; load the network with that one"
        )
    trained: Any = vector.settings.get("data")
    recorded = trained.get("preprocessing") if isinstance(trained, dict) else None
    if not (isinstance(recorded, dict) and {"name", "configuration"} <= set(recorded)):
        return  # not trained here
    theirs = NamedConfig(recorded["name"], recorded["configuration"])
    differences = preprocessing_differences(theirs, examples.info([0]).preprocessing)
    if differences:
        logger.warning(
            "%s was trained on other inputs than it is used on: %s",
            name,
            "; ".join(differences),
        )


def on_device(vector: TaskVector, network: Network) -> dict[str, Tensor]:
    """The changes, where the network is."""
    return {name: t.to(network.device) for name, t in vector.tensors.items()}


def moved_output(
    network: Network, tau: Mapping[str, Tensor], alpha: float, batch: Batch
) -> Float[Tensor, "n c"]:
    """Evaluate ``f(x, θ0 + α τ)``, in the number type of the network."""
    parameters = network.parameters()
    moved = {
        name: (parameters[name].to(t.dtype) + alpha * t).to(parameters[name].dtype)
        for name, t in tau.items()
    }
    return network.functional_call(moved, batch)
