"""What a checkpoint of a training holds: parameters and moments of AdamW."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kfac_artifacts.format.checkpoint import State

MOMENTS = ("exp_avg", "exp_avg_sq")


def capture(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Collect the parameters of a regime and the moments of AdamW, on the CPU."""
    tensors: dict[str, Tensor] = {}
    for name, value in parameters.items():
        tensors[f"tau/{name}"] = value.detach().cpu()
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[value][moment].cpu()
    return tensors


def restore(
    state: State, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Put the parameters of a regime and the moments of AdamW back in place."""
    for name, value in parameters.items():
        with torch.no_grad():
            value.copy_(state.tensors[f"tau/{name}"])
        moments = {
            m: state.tensors[f"{m}/{name}"].to(value.device, copy=True) for m in MOMENTS
        }
        optimizer.state[value] = {"step": torch.tensor(float(state.step)), **moments}
