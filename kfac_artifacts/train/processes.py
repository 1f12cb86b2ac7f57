"""The processes that train together."""

import os

import torch
from accelerate import Accelerator


def find_processes() -> Accelerator:
    """Find what ``accelerate launch`` or ``torchrun`` has started.

    Without a GPU accelerate has to be told, or every process would take itself for the
    only one.

    Returns:
        The processes; this one alone, if there are no others.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = several and not torch.accelerator.is_available()
    return Accelerator(device_placement=False, cpu=cpu)
