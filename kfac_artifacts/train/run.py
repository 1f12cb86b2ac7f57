"""A training before its first step: who takes part, and that they fit together."""

import dataclasses
import logging
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from kfac_artifacts.capture import require_independence
from kfac_artifacts.choices import OPTIMIZERS, PENALTIES, PRECISIONS
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.network import Network
from kfac_artifacts.train.parameters import choose_parameters
from kfac_artifacts.train.penalties import AUTO, Others, Penalty
from kfac_artifacts.train.precision import check_precision
from kfac_artifacts.train.regimes import Regime, RegimeMaker, choose_regime
from kfac_artifacts.train.settings import USUAL_PRECISION, TrainSettings
from kfac_artifacts.train.task import Learning, TrainingTask
from kfac_artifacts.train.underway import Underway

logger = logging.getLogger(__name__)


@dataclass
class Run(Underway):
    """Everything a step needs.

    ``model`` is the regime as accelerate has it: it shares gradients among processes.
    """

    task: TrainingTask
    indices: tuple[int, ...]
    targets: Tensor
    regime: Regime
    model: nn.Module
    optimizer: AcceleratedOptimizer
    penalty: Penalty | None


def make_penalty(
    penalty: Penalty | str | None, others: Others, settings: TrainSettings
) -> tuple[Penalty | None, TrainSettings]:
    """Make the penalty that was asked for.

    Args:
        penalty: The penalty itself, or its name; None for that of the curvature.
        others: What is known of the other tasks.
        settings: How to train.

    Returns:
        The penalty, None for none; and the settings, with the weight that is usual for
        it if none was given.

    Raises:
        SettingsError: If there is none of that name, it does not use what is given, or
            both a penalty and what to make one of are given.
        MismatchError: If something is missing that it is made of.
    """
    if penalty is None and others.curvatures:
        penalty = "kfac"
    if penalty is None and others.examples:
        raise SettingsError(
            "data of other tasks are used by the penalty tau-jp alone; name it, or "
            "leave them out"
        )
    if penalty is None:
        idle = settings.penalty.weight in {None, AUTO}
        return None, settings.weighed(0.0) if idle else settings
    if isinstance(penalty, str):
        kind = PENALTIES[penalty]
        kind.check_others(penalty, others)
        if settings.penalty.weight is None:
            settings = settings.weighed(kind.usual_weight)
        return kind(others, settings.penalty), settings
    if others.curvatures or others.examples:
        raise SettingsError(
            "give curvature or data of others, or a penalty of your own, not both"
        )
    if settings.penalty.weight is None:
        settings = settings.weighed(penalty.usual_weight)
    return penalty, settings


def prepare(
    accelerator: Accelerator,
    network: Network,
    task: TrainingTask,
    settings: TrainSettings,
    penalty: Penalty | None,
    regime: RegimeMaker | str,
) -> Run:
    """Check what belongs together, choose what is trained, and get ready for step 0.

    Args:
        accelerator: The processes.
        network: The pretrained network.
        task: What is to be learned.
        settings: How.
        penalty: What holds it back.
        regime: How the network moves.

    Returns:
        The run.

    Raises:
        SettingsError: If there are fewer examples in a batch than parts of it, or
            the device or the processes have not the precision.
        CoverageError: If nothing is trained, or f of an example depends on the others
            of its batch.
    """
    main = accelerator.is_main_process
    if penalty is not None:
        penalty.check(network)
        if main and settings.penalty.weight != 0:
            for doubt in penalty.doubts(task.examples):
                logger.warning("%s", doubt)
    targets = task.head.targets(task.examples)
    if task.held_out is not None:
        task.head.targets(task.held_out)
    indices = tuple(settings.choose(len(task.examples)))
    _check_accelerator(accelerator)
    check_precision(network.device, settings.precision, warn=main)
    parts = accelerator.num_processes * settings.accumulate
    if min(settings.batch_size, len(indices)) < parts:
        raise SettingsError(
            f"a batch of {settings.batch_size} of {len(indices)} examples is too small "
            f"for {accelerator.num_processes} processes, {settings.accumulate} parts "
            "each; every part needs at least one"
        )
    require_independence(network, task.examples, indices)
    some = task.examples.batch(indices[:2])
    covered = None if penalty is None else penalty.covered
    names = choose_parameters(network, covered, settings.modules, some)
    make = choose_regime(regime) if isinstance(regime, str) else regime
    moving = make(_at_precision(network, settings), names)
    if not moving.tau():
        raise CoverageError(
            f"{type(moving).__name__} trains none of {', '.join(names[:3])} and the "
            f"other parameters that may move ({len(names)} in all)"
        )
    moving.prepare(Learning(task, indices, settings))
    if penalty is not None:  # without weight it is still measured at the end
        penalty.prepare(network, tuple(moving.tau()))
    optimizer = OPTIMIZERS[settings.optimizer](
        moving.parameters(), settings.learning_rate, settings.weight_decay
    )
    return Run(
        accelerator=accelerator,
        task=task,
        settings=settings,
        indices=indices,
        targets=targets,
        regime=moving,
        model=accelerator.prepare(moving),
        optimizer=accelerator.prepare(optimizer),
        penalty=penalty,
    )


def _check_accelerator(accelerator: Accelerator) -> None:
    """Refuse a precision that no settings know of, and that no task vector tells."""
    if accelerator.mixed_precision != "no":
        raise SettingsError(
            f"accelerate has mixed precision {accelerator.mixed_precision} (from its "
            "launch or configuration); set it to no, and say --precision "
            f"({', '.join(PRECISIONS)}) to kfac train"
        )


def _at_precision(network: Network, settings: TrainSettings) -> Network:
    """The network to train with; the same module, whose weights stay as they are."""
    if settings.precision == USUAL_PRECISION:
        return network
    return dataclasses.replace(network, precision=torch.bfloat16)
