"""How much memory training takes, in a process that does nothing else (Linux)."""

import gc
import os
from pathlib import Path

import torch

from stepping.case import Arm, network, train

STEPS = 3


def growth(arm: Arm, place: Path, *, quick: bool) -> int:
    """Train a few steps, and measure the most that was used beyond the loaded model.

    Args:
        arm: How to train.
        place: Directory of the artifacts.
        quick: Whether the model has random weights.

    Returns:
        Bytes: τ, its gradients and moments, activations, and factors.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    model = network(quick=quick)
    _ = model.base  # what is mapped from a file is resident once it is hashed
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    train(model, arm, place, STEPS)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
