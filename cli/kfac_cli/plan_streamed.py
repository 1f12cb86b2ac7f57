"""What ``kfac plan --stream`` prints beside the rest."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kfac_cli.units import duration, operations, size

if TYPE_CHECKING:
    from kfac_artifacts.estimate import Plan, StreamedPlan


def streamed_to_json(streamed: "StreamedPlan") -> dict[str, Any]:
    """Its fields, and the sums of what has several."""
    memory = asdict(streamed.memory) | {"peak": streamed.memory.peak}
    flops = streamed.flops
    of_one = None if flops is None else asdict(flops) | {"total": flops.total}
    return asdict(streamed) | {"memory": memory, "flops": of_one}


def print_streamed(streamed: "StreamedPlan", plan: "Plan", rate: float | None) -> None:
    """Print memory, disk and time of streaming, after those without."""
    memory = streamed.memory
    parts = {
        "weights": memory.weights,
        "sums": memory.sums,
        f"a batch of {plan.effort.batch_size}": memory.activations,
        "records": memory.records or None,
        "proof": memory.proof,
    }
    known = [f"{name} {size(n)}" for name, n in parts.items() if n is not None]
    click.echo(
        f"with --stream, in {streamed.parts} parts: of the largest ({streamed.largest})"
        f" {', '.join(known)}; peak at least {size(memory.peak)}"
    )
    click.echo(
        f"on disk meanwhile: hidden states {size(streamed.states)}, factors "
        f"{size(streamed.factors)}; weights are read {streamed.readings} times"
    )
    if streamed.flops is None:
        return
    total = streamed.flops.total * plan.effort.examples
    time = "" if rate is None else f", {duration(total / rate / 1e9)}"
    click.echo(f"operations then: {operations(total)}{time}, without reading")
