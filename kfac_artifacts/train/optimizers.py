"""What makes steps of gradients: AdamW, its moments in 32 bits or in 8."""

from collections.abc import Iterable

import torch
from torch import Tensor

from kfac_artifacts.errors import SettingsError

BLOCKS = 4096  # bitsandbytes keeps the moments of smaller tensors in 32 bits


def adamw(
    parameters: Iterable[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make the AdamW of PyTorch."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)


def adamw8bit(
    parameters: Iterable[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make an AdamW whose moments take two bytes per number instead of eight.

    Args:
        parameters: What to move.
        learning_rate: The rate of the first step.
        weight_decay: Pulls the parameters to zero.

    Returns:
        The optimizer of bitsandbytes (Dettmers et al. 2022).

    Raises:
        SettingsError: If bitsandbytes is not there, or has no kernel for the device or
            the number type of the parameters.
    """
    moved = list(parameters)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit  # noqa: PLC0415 - imports much

        trial = torch.zeros(BLOCKS, dtype=moved[0].dtype, device=moved[0].device)
        trial.requires_grad_().grad = torch.zeros_like(trial)
        AdamW8bit([trial]).step()
    except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
        raise SettingsError(
            f"adamw8bit does not work with {moved[0].dtype} on {moved[0].device}: "
            f"{error}; take adamw"
        ) from error
    return AdamW8bit(moved, lr=learning_rate, weight_decay=weight_decay)
