"""What a checkpoint of a training holds: parameters, and what the optimizer keeps."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kfac_artifacts.format import State


def capture(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Collect the parameters of a regime and the moments of each, on the CPU."""
    tensors: dict[str, Tensor] = {}
    for name, value in parameters.items():
        tensors[f"tau/{name}"] = value.detach().cpu()
        for key, moment in optimizer.state[value].items():
            if key != "step":
                tensors[f"{key}/{name}"] = moment.cpu()
    return tensors


def restore(
    state: State, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Put the parameters of a regime and the moments of each back in place."""
    for full, tensor in state.tensors.items():
        key, _, name = full.partition("/")
        value = parameters[name]
        if key == "tau":
            with torch.no_grad():
                value.copy_(tensor)
        else:
            optimizer.state[value][key] = tensor.to(value.device, copy=True)
    for value in parameters.values():
        kept = optimizer.state[value]
        of_torch = "exp_avg" in kept  # bitsandbytes counts in a plain number
        kept["step"] = torch.tensor(float(state.step)) if of_torch else state.step
