"""What ``kfac train`` says while it trains, and of the task vector at the end."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console

if TYPE_CHECKING:
    from kfac_artifacts.network import Network
    from kfac_artifacts.task_vector import TaskVector
    from kfac_artifacts.train import TrainingProgress

CHOSEN = ("lam", "lam_by", "logit_scale")
"""What may have been chosen for the user."""
MODES = {"pretrained": "pretrained", "linear": "linearised", "plain": "ordinary"}


def report_training(
    output: Path,
    vector: "TaskVector",
    network: "Network",
    seconds: float,
    accounts: Mapping[str, Any] | None,
    *,
    held: bool,
) -> None:
    """Print what was trained, as JSON with what was read if that is given."""
    sizes = {name: p.numel() for name, p in network.parameters().items()}
    trained = sum(sizes[name] for name in vector.tensors)
    settings: Any = vector.settings
    if accounts is not None:
        result = {"output": str(output), "parameters": trained, **vector.metrics}
        chosen = {n: settings[n] for n in CHOSEN if n in settings}
        about = {"seconds": round(seconds, 1), "warnings": console.SPOKEN.said}
        console.print_json({**result, **chosen, **about, **accounts})
        return
    click.echo(f"trained {trained:,} of {sum(sizes.values()):,} parameters")
    if not held:
        click.echo("no curvature: every parameter that f depends on was free to move")
    elif trained < sum(sizes.values()):
        click.echo("the others stay as they are: not covered, or not asked for")
    for line in _lines(settings, vector.metrics):
        click.echo(line)
    click.echo(f"{output}: {len(vector.tensors)} tensors, {seconds:.1f} s")


def _lines(settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Say what was learnt, and at what price for others."""
    if settings.get("logit_scale") is not None:
        scale = f"{settings['logit_scale']:.4g}"
        yield f"logit scale {scale} (what cosines with the classes are multiplied by)"
    own = metrics["own_loss"]
    losses = _by_mode(own, "{:.4g}")
    yield f"own loss on {own['examples']} examples trained on: {losses}"
    if "penalty" in metrics:
        by, weight = settings.get("lam_by"), f"{settings['lam']:.4g}"
        how = ", chosen to be as stiff as the own loss" if by else ""
        yield f"lambda {weight}{how}"
        drift = f"{metrics['penalty']:.4g}"
        free = f"; {by['drift']:.4g} after {by['steps']} steps without it" if by else ""
        yield f"penalty (the predicted drift on the others, if of kfac): {drift}{free}"
    for name, what in (("own_accuracy", "trained on"), ("held_out", "held out")):
        if found := metrics.get(name):
            shares = _by_mode(found, "{:.1%}")
            yield f"right of {found['examples']} examples {what}: {shares}"


def _by_mode(found: Mapping[str, float], how: str) -> str:
    return ", ".join(
        f"{n} {how.format(found[m])}" for m, n in MODES.items() if m in found
    )


@contextmanager
def training_bar(steps: int) -> "Iterator[Callable[[TrainingProgress], None]]":
    """Show steps and loss on stderr."""
    done = 0
    with console.progress("training", steps, "steps", shown=is_main()) as advance:

        def report(progress: "TrainingProgress") -> None:
            nonlocal done
            if progress.resumed:
                click.echo(f"going on after step {progress.step}", err=True)
            advance(progress.step - done, f"loss {progress.loss:.4f}")
            done = progress.step

        yield report


def is_main() -> bool:
    """Whether this process is the one that speaks; its launcher has told it."""
    return os.environ.get("RANK", "0") == "0"
