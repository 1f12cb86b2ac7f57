"""Task vectors added to a model that a function of the user's gives."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_model

from kfac_artifacts.errors import MismatchError
from kfac_artifacts.sources.own_models import load_own
from kfac_artifacts.task_vector import Merging

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class WrittenWeights:
    """What was written of a module.

    Attributes:
        id: What the model is called.
        revision: Its revision, if it has one.
        tensors: How many tensors the module has.
        dtypes: Number types of the changed parameters.
        lost: Norm of what rounding took, relative to the norm of what was added.
    """

    id: str
    revision: str | None
    tensors: int
    dtypes: tuple[str, ...]
    lost: float


def write_own(
    model: str, merging: Merging, directory: Path, number_type: torch.dtype | None
) -> WrittenWeights:
    """Write the weights of a function's module with merged task vectors added.

    ``safetensors.torch.load_model(module, directory / "model.safetensors")`` puts them
    into the module that the function gives.

    Args:
        model: ``module:function``; it is run.
        merging: The task vectors, and how they are merged.
        directory: Where ``model.safetensors`` goes.
        number_type: What everything is converted to; None to keep each tensor's.

    Returns:
        What was written.

    Raises:
        MismatchError: If the task vectors are of another model, or numbers become too
            large.
    """
    network = load_own(model)
    for vector in merging.vectors:
        vector.check_base(network)
    module = copy.deepcopy(network.module).cpu()  # the function may keep its own
    parameters, added, lost = dict(module.named_parameters()), 0.0, 0.0
    for name in merging.names:
        change, old = merging.change(name).detach().cpu(), parameters[name].detach()
        sums = old.to(torch.promote_types(old.dtype, change.dtype)) + change
        if not bool(sums.isfinite().all()):
            raise MismatchError(
                f"{name} would have numbers that are not finite; give a smaller factor"
            )
        parameters[name].data = sums.to(number_type or old.dtype)
        added += float(change.double().square().sum())
        lost += float((parameters[name].detach().double() - sums).square().sum())
    module.to(number_type)
    save_model(module, str(directory / WEIGHTS))
    dtypes = {str(parameters[n].dtype).removeprefix("torch.") for n in merging.names}
    return WrittenWeights(
        network.id,
        network.revision,
        len(module.state_dict()),
        tuple(sorted(dtypes)),
        (lost / added) ** 0.5 if added else 0.0,
    )
