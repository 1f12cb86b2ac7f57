"""Steps of an adapter's training, on one process or several, and its checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.format import Checkpoint, State
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.seeding import seeded
from kfac_artifacts.train.checkpoint import Pace, capture, restore
from kfac_artifacts.train.predictions import count_predicted, summed
from kfac_artifacts.train.underway import TrainingProgress, Underway
from kfac_artifacts.tuning import ModelPenalty


@dataclass
class AdapterRun(Underway):
    """Everything a step needs. Each process has the whole adapter.

    Attributes:
        network: The language model, which has the adapter.
        model: The model of ``peft``.
        examples: What is learned.
        indices: Numbers of those that are trained on.
        penalty: What holds it back.
        optimizer: That of the adapter.
    """

    network: Network
    model: Any
    examples: Examples
    indices: tuple[int, ...]
    penalty: ModelPenalty | None
    optimizer: torch.optim.Optimizer

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        named = self.model.named_parameters()
        return {name: p for name, p in named if p.requires_grad}


def take_step(run: AdapterRun) -> None:
    """Take one step; every process works on its share of the batch.

    Args:
        run: The run.

    Raises:
        SettingsError: If training diverges.
        FactorError: If the penalty is not finite.
    """
    settings = run.settings
    for group in run.optimizer.param_groups:
        group["lr"] = settings.rate(run.step)
    run.optimizer.zero_grad()
    # what dropout drops is of the step, so that it is the same after an interruption
    process = run.accelerator.process_index
    drawn = seeded(f"adapter {settings.seed} {run.step} {process}")
    torch.manual_seed(drawn.initial_seed())
    found = _go_back(run, settings.batch(run.step, run.indices))
    factor = 0.0 if run.penalty is None else settings.penalty.factor(run.step)
    if run.penalty is not None and factor:
        run.penalty.backward(factor)  # the same in all processes, so none is told
    run.optimizer.step()
    run.count(*found)


def _go_back(run: AdapterRun, rows: Sequence[int]) -> tuple[float, float]:
    """Add the gradient of the mean loss over the tokens of a batch.

    Returns:
        The loss, and the accuracy.
    """
    accelerator, network, settings = run.accelerator, run.network, run.settings
    share = rows[accelerator.process_index :: accelerator.num_processes]
    parts = [share[i :: settings.accumulate] for i in range(settings.accumulate)]
    batches = [run.examples.batch(part) for part in parts if part]
    mine = sum(count_predicted(batch) for batch in batches)
    counted = torch.tensor(float(mine), device=network.device)
    tokens = float(accelerator.reduce(counted, "sum"))
    total = torch.zeros(3, device=network.device)
    for batch in batches:
        with torch.autocast(
            network.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
        ):
            sums = summed(network, run.model, batch)
        (sums[0] / tokens).backward()
        total += sums.detach().float()
    _share_gradients(run)
    loss, right, _ = accelerator.reduce(total, "sum").tolist()
    return loss / tokens, right / tokens


def _share_gradients(run: AdapterRun) -> None:
    """Add up the gradients of all processes, at once: an adapter is small."""
    if run.accelerator.num_processes == 1:
        return
    parameters = [*run.parameters.values()]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([grad.flatten() for grad in grads])
    total = run.accelerator.reduce(flat, "sum")
    sizes = [p.numel() for p in parameters]
    for p, part in zip(parameters, total.split(sizes), strict=True):
        p.grad = part.view_as(p).clone()


def finish(
    run: AdapterRun, checkpoint: Checkpoint, report: Callable[[TrainingProgress], None]
) -> dict[str, Json]:
    """Take all steps that are left.

    Args:
        run: The run; λ is a number.
        checkpoint: Where the main process keeps what is done.
        report: Called by it after every step.

    Returns:
        Metrics: ``steps``, and ``loss`` and ``accuracy`` of the last ones.
    """
    pace = Pace()
    run.model.train()
    while run.step < run.settings.steps:
        take_step(run)
        if run.main:
            report(run.progress)
        if run.main and pace.is_due(run.step):
            tensors = capture(run.parameters, run.optimizer)
            checkpoint.save(State(run.step, tensors, run.details))
    last = run.progress
    return {"steps": last.step, "loss": last.loss, "accuracy": last.accuracy}


def resume_run(
    run: AdapterRun, checkpoint: Checkpoint, report: Callable[[TrainingProgress], None]
) -> None:
    """Go on from a checkpoint, if there is one.

    Args:
        run: A run before its first step.
        checkpoint: Where an interrupted one has left what was done.
        report: Told how far that was.

    Raises:
        MismatchError: If it is of another training.
        FormatError: If it is damaged.
    """
    state = checkpoint.load()
    if state is None:
        return
    restore(state, run.parameters, run.optimizer)
    run.take_up(state, report)
