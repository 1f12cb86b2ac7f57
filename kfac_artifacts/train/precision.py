"""The number type of matrix products, and whether a device is fit for it."""

import logging
import time

import torch

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.train.settings import USUAL_PRECISION

logger = logging.getLogger(__name__)

PRODUCT = 256
"""Rows and columns of the matrices whose product is timed."""
SLOW = 3.0
"""So many times the time of float32 is said before training: far from noise, and far
below what a processor without instructions for bfloat16 takes."""


def check_precision(device: torch.device, precision: str, *, warn: bool) -> None:
    """Refuse a precision that a device has not, and warn of one that it is slow at.

    Args:
        device: Where the network is.
        precision: One of ``choices.PRECISIONS``.
        warn: Whether this process, of those that train, is the one that warns.

    Raises:
        SettingsError: If the device cannot compute at the precision.
    """
    if precision == USUAL_PRECISION:
        return
    try:
        with torch.autocast(device.type, torch.bfloat16):
            pass
    except RuntimeError as error:
        raise SettingsError(
            f"{device} has no precision {precision}: {error}"
        ) from error
    if not warn:
        return
    ratio = _seconds(device, torch.bfloat16) / _seconds(device, torch.float32)
    if ratio > SLOW:
        logger.warning(
            "%s multiplies matrices of bfloat16 %.0f times as slowly as those of "
            "float32; train with --precision %s there",
            device,
            ratio,
            USUAL_PRECISION,
        )


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """The shortest time of three products, after one that nobody waits for."""
    matrix = torch.ones(PRODUCT, PRODUCT, device=device, dtype=dtype)
    found = []
    for _ in range(4):
        started = time.perf_counter()
        (matrix @ matrix).sum().item()  # waits for the device
        found.append(time.perf_counter() - started)
    return min(found[1:])
