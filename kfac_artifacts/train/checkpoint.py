"""Checkpoints of a training: when, whose, and what: parameters and their moments."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.format import CHECKPOINT_MANIFEST, State
from kfac_artifacts.places import hold

logger = logging.getLogger(__name__)

CHECKPOINT_STEPS = 50
CHECKPOINT_SECONDS = 60.0


class Pace:
    """When it is time for a checkpoint: every 50 steps, and every minute."""

    def __init__(self) -> None:
        self._saved = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether one is to be kept after so many steps; it is taken to be done."""
        late = time.monotonic() - self._saved > CHECKPOINT_SECONDS
        if not late and step % CHECKPOINT_STEPS:
            return False
        self._saved = time.monotonic()
        return True


@contextmanager
def held(accelerator: Accelerator, checkpoint: Path | None) -> Iterator[None]:
    """Keep other runs from a checkpoint; the main process does it for its fellows.

    Args:
        accelerator: The processes.
        checkpoint: Its directory; None for none.

    Yields:
        Nothing.

    Raises:
        PlaceError: If another run has it; in all processes, or in none.
    """
    with ExitStack() as stack:
        refused = None
        if checkpoint is not None and accelerator.is_main_process:
            try:
                stack.enter_context(hold(checkpoint))
            except PlaceError as error:
                refused = str(error)
        for message in gather_object([refused]):
            if message is not None:
                raise PlaceError(message)
        yield


def goes_on(place: Path, *, main: bool, resume: bool) -> bool:
    """Whether to go on from a checkpoint; say so if that may be a surprise."""
    there = (place / CHECKPOINT_MANIFEST).is_file()
    if main and there and not resume:
        logger.warning(
            "beginning afresh, although %s was there; --resume goes on", place
        )
    elif main and resume and not there:
        logger.warning("nothing is kept in %s to go on from; beginning", place)
    return resume


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
