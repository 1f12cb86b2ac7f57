"""λ without a guess: from a short look at what a training without penalty would do.

Along the change τ of the probe the task's own loss curves by ``h = τᵀ H τ``, H being
its Gauss-Newton matrix at θ0, and the penalty by ``2 d``, d being the drift that it
predicts. ``λ = h / (2 d)`` makes the penalty as stiff as the loss, in the direction in
which training goes. τ may have any length, so that the choice hardly depends on the
learning rate; a loss or a penalty in other units (another scale of f, more tasks)
gives the same training.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import broadcast_object_list
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.linearize import jvp
from kfac_artifacts.task_vector import Head
from kfac_artifacts.train.record import spread
from kfac_artifacts.train.run import Run
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.train.underway import Probe

SHARE, MOST_STEPS = 0.1, 30
MEASURED, AT_ONCE = 64, 32


def weight_of(probe: Probe) -> float:
    """λ after a probe."""
    return probe.curvature / (2 * probe.drift)


def probe(run: Run, take_step: Callable[[Run], None]) -> Probe:
    """Train for a few steps without the penalty, look, and go back.

    Args:
        run: A run before its first step, with a penalty; it is left as it was.
        take_step: What does one step of a run.

    Returns:
        What was seen.

    Raises:
        SettingsError: If no λ follows from it; a number has to be given.
    """
    if run.penalty is None:
        raise SettingsError("there is no penalty whose weight could be chosen")
    settings = run.settings.weighed(0.0)
    steps = steps_of_probe(settings)
    free = dataclasses.replace(run, settings=settings, recent=[])
    with _restored(run):
        for _ in range(steps):
            take_step(free)
        tau = {n: t.detach() for n, t in run.regime.tau().items()}
        run.penalty.begin(0)
        with torch.no_grad():
            drift = float(run.penalty(run.regime.change()))
            loss, after, curvature = _own(run, tau)
            seen = Probe(steps, loss, after, curvature, drift)
    found: Probe = broadcast_object_list([seen])[0]  # one λ for all processes
    require_weight(found)
    return found


def steps_of_probe(settings: TrainSettings) -> int:
    """How many steps a probe takes."""
    return max(1, min(round(SHARE * settings.steps), MOST_STEPS))


def require_weight(found: Probe) -> None:
    """Refuse a probe that no λ follows from.

    Args:
        found: What was seen.

    Raises:
        SettingsError: If the change does not move the others, or the own loss does not
            curve along it.
    """
    if not (found.drift > 0 and found.curvature > 0):
        raise SettingsError(
            "no weight of the penalty follows from the first steps: without it they "
            f"change the others by {found.drift:.3g}, and the own loss curves by "
            f"{found.curvature:.3g} along the change; give a number (--lambda 100, say)"
        )


@contextmanager
def _restored(run: Run) -> Iterator[None]:
    """Put parameters back where they were, and let the optimiser forget."""
    live = run.regime.state()
    start = {name: value.detach().clone() for name, value in live.items()}
    try:
        yield
    finally:
        run.optimizer.zero_grad()
        run.optimizer.state.clear()
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(start[name])


def _own(run: Run, tau: dict[str, Tensor]) -> list[float]:
    """The own loss at θ0, linearised at τ, and how it curves between them."""
    task, network = run.task, run.regime.network
    chosen = spread(run.indices, MEASURED)
    found = []
    for start in range(0, len(chosen), AT_ONCE):
        rows = chosen[start : start + AT_ONCE]
        try:
            output, change = jvp(network, tau, task.examples.batch(rows))
        except CoverageError as error:
            raise SettingsError(
                f"the weight of the penalty cannot be chosen, so give a number: {error}"
            ) from error
        targets = run.targets[rows].to(output.device)
        losses = [
            cross_entropy(task.head.logits(f), targets, reduction="none")
            for f in (output, output + change)
        ]
        found.append(torch.stack([*losses, curved(task.head, output, change)]))
    return torch.cat(found, dim=1).double().mean(1).tolist()


def curved(
    head: Head, output: Float[Tensor, "n c"], change: Float[Tensor, "n c"]
) -> Float[Tensor, " n"]:
    """Second derivative of the cross entropy along a change of f, example by example.

    That of the softmax, which no label enters: the variance of the logits' change under
    the probabilities.

    Args:
        head: The classifier.
        output: Outputs of f.
        change: Their change.

    Returns:
        One number per example, not negative.
    """
    wide = torch.promote_types(output.dtype, torch.float32)
    at, along = (output.to(wide),), (change.to(wide),)
    logits, slope, *_ = torch.func.jvp(head.logits, at, along)
    p = logits.softmax(-1)
    mean = (p * slope).sum(-1, keepdim=True)
    return (p * (slope - mean).square()).sum(-1)
