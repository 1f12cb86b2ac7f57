"""The training loop: task loss and penalty, on one process or many."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kfac_artifacts.artifact import Artifact, Json
from kfac_artifacts.errors import FactorError, SettingsError
from kfac_artifacts.format import Checkpoint, State
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.places import check_free, checkpoint_beside
from kfac_artifacts.progress import unseen
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train.checkpoint import Pace, capture, goes_on, held, restore
from kfac_artifacts.train.outcome import doubts_about, outcome
from kfac_artifacts.train.penalties import AUTO, Others, Penalty
from kfac_artifacts.train.probe import probe, weight_of
from kfac_artifacts.train.processes import find_processes
from kfac_artifacts.train.record import describe
from kfac_artifacts.train.regimes import RegimeMaker
from kfac_artifacts.train.run import (
    Run,
    make_penalty,
    prepare,
)
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.train.task import TrainingTask
from kfac_artifacts.train.underway import TrainingProgress

logger = logging.getLogger(__name__)


def train(  # noqa: PLR0913 - as many arguments as there are choices
    network: Network,
    task: TrainingTask,
    settings: TrainSettings | None = None,
    *,
    curvature: Artifact | Sequence[Artifact] | None = None,
    others: Sequence[Examples] = (),
    penalty: Penalty | str | None = None,
    regime: RegimeMaker | str = "linearised",
    output: str | Path | None = None,
    replace: bool = False,
    resume: bool = False,
    report: Callable[[TrainingProgress], None] = unseen,
) -> TaskVector:
    """Train a task vector: unless asked otherwise linearised, held back (TAK, Eq. 7).

    With an output a checkpoint is kept beside it, from which a run that was interrupted
    can go on; on the CPU it ends at the same numbers, bit for bit. A warning is
    logged if the curvature is of the same data, or of inputs made in another way.

    Args:
        network: The pretrained network.
        task: What is to be learned.
        settings: How; None for what is usual for the examples.
        curvature: Curvature of the other tasks, in one or several artifacts.
        others: Data of the other tasks, without labels, for ``tau-jp``.
        penalty: What holds it back: a penalty, or a name out of ``choices.PENALTIES``;
            None for the drift under the curvature, and none without curvature.
        regime: How the network moves: a name out of ``choices.REGIMES``, what
            ``choose_regime`` gives, or what makes a regime of the network and the names
            of the parameters that may move.
        output: Directory for the task vector; None only returns it.
        replace: Whether what this package wrote at the output may be replaced.
        resume: Whether to go on from the checkpoint of an interrupted run.
        report: Called after every step with how far the training is, in the main
            process.

    Returns:
        The task vector, with its head, settings and metrics.

    Raises:
        MismatchError: If the curvature is of another model or output map, or the
            checkpoint to go on from of another training.
        CoverageError: If nothing of what was asked for can be trained, or f of an
            example depends on the others of its batch.
        SettingsError: If the settings do not work, or training diverges.
        FactorError: If the curvature is clearly indefinite, and must not be.
        PlaceError: If the output is taken or cannot be written, or another run has its
            checkpoint.
    """
    settings = settings or TrainSettings.usual(task.examples)
    if output is not None:
        check_free(output, replace=replace)
    accelerator = find_processes()
    if accelerator.num_processes > 1:
        network.to(accelerator.device)
    place = None if output is None else checkpoint_beside(output)
    with held(accelerator, place):
        parts = [curvature] if isinstance(curvature, Artifact) else curvature or ()
        known = Others(tuple(parts), tuple(others))
        made, settings = make_penalty(penalty, known, settings)
        run = prepare(accelerator, network, task, settings, made, regime)
        described = describe(task, settings, run.indices, made, run.regime)
        base = network.base.restrict(set(run.regime.tau()))
        checkpoint = None
        if place is not None:
            shared = {**described, "base": base.sha256}
            checkpoint = Checkpoint(place, shared, "begin without --resume")
            if goes_on(place, main=run.main, resume=resume):
                _resume(run, checkpoint, report)
        _choose_weight(run)
        _loop(run, checkpoint, report)
        vector = TaskVector(
            tensors={n: t.detach().cpu().clone() for n, t in run.regime.tau().items()},
            base=base,
            output_map=network.output_map.info,
            head=task.head,
            settings={**described, **_chosen(run)},
            metrics=_outcome(network, run),
        )
        if checkpoint is not None and output is not None and run.main:
            vector.save(output, replace=replace)
            checkpoint.remove()
        accelerator.wait_for_everyone()
    return vector


def _resume(
    run: Run, checkpoint: Checkpoint, report: Callable[[TrainingProgress], None]
) -> None:
    state = checkpoint.load()
    if state is None:
        return
    restore(state, run.regime.state(), run.optimizer.optimizer)
    run.take_up(state, report)


def _choose_weight(run: Run) -> None:
    """Make a number of λ, if that is to be done; a checkpoint knows by what."""
    if run.settings.penalty.weight == AUTO:
        run.probe = run.probe or probe(run, _step)
        run.settings = run.settings.weighed(weight_of(run.probe))


def _chosen(run: Run) -> dict[str, Json]:
    """What the settings say of λ beside what was asked for."""
    if run.probe is None:
        return {}
    return {"lam": weight_of(run.probe), "lam_by": asdict(run.probe)}


def _outcome(network: Network, run: Run) -> dict[str, Json]:
    """Measure the run at full precision, and say what is odd about it."""
    metrics = outcome(network, run)
    for doubt in doubts_about(run, metrics) if run.main else ():
        logger.warning("%s", doubt)
    return metrics


def _loop(
    run: Run, checkpoint: Checkpoint | None, report: Callable[[TrainingProgress], None]
) -> None:
    pace, main = Pace(), run.main
    while run.step < run.settings.steps:
        _step(run)
        if main:
            report(run.progress)
        if checkpoint and main and pace.is_due(run.step):
            tensors = capture(run.regime.state(), run.optimizer.optimizer)
            checkpoint.save(State(run.step, tensors, run.details))


def _step(run: Run) -> None:
    """Take one step; every process works on its share of the batch."""
    accelerator, settings = run.accelerator, run.settings
    batch = settings.batch(run.step, run.indices)
    share = batch[accelerator.process_index :: accelerator.num_processes]
    run.regime.begin(run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = settings.rate(run.step)
    run.optimizer.zero_grad()
    parts = [share[i :: settings.accumulate] for i in range(settings.accumulate)]
    with accelerator.no_sync(run.model):
        done = [_go_back(run, part, len(batch)) for part in parts[:-1]]
    done.append(_go_back(run, parts[-1], len(batch)))
    _hold_back(run)
    run.optimizer.step()
    both = torch.stack(done).sum(0)
    run.count(*(accelerator.reduce(both, "sum") / len(batch)).tolist())


def _go_back(run: Run, part: list[int], size: int) -> Tensor:
    """Add the gradient of a part of a batch.

    Returns:
        The sum of the task loss, and how many answers were right.
    """
    inputs = run.task.examples.batch(part)
    output = run.model(inputs)
    targets = run.targets[part].to(output.device)

    def task_loss(f: Tensor) -> Tensor:
        return cross_entropy(run.task.head.logits(f), targets, reduction="sum")

    summed = task_loss(output)
    beside = run.regime.loss_beside(inputs, output, task_loss)
    lowered = summed if beside is None else summed + beside
    # gradients are averaged over processes, so that this is the mean over the batch
    loss = lowered * run.accelerator.num_processes / size
    run.accelerator.backward(loss)
    logits = run.task.head.logits(output.detach())
    correct = (logits.argmax(-1) == targets).sum()
    return torch.stack([summed.detach().double(), correct.double()])


def _hold_back(run: Run) -> None:
    """Add the gradient of the penalty, once in a step.

    Activations are gone by now. All processes add the same, so none has to be told.

    Raises:
        SettingsError: If the penalty is not finite.
    """
    factor = run.settings.penalty.factor(run.step)
    if run.penalty is None or not factor > 0:
        return
    run.penalty.begin(run.step)
    for tau in run.regime.held_back():
        try:
            run.penalty.backward(tau, factor)
        except FactorError as error:  # the factors were found good before
            raise SettingsError(str(error)) from error
