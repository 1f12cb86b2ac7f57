"""``kfac plan``: what computing the curvature of a model would take."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.grouping import grouped
from kfac_cli.options import (
    NAMED,
    dtype_option,
    json_option,
    output_map_option,
    pattern_options,
    tables_option,
)

if TYPE_CHECKING:
    from kfac_artifacts.estimate import Plan
    from kfac_artifacts.estimate.planning.cost import PlannedBlock
    from kfac_artifacts.network import Network

EXAMPLES_TRACED = 2


@click.command("plan")
@click.argument("model", type=NAMED)
@pattern_options
@tables_option
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="How many examples would be used.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    help="Length of every text.  [default: 128, or what the model takes]",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Height and width of images.  [default: as config.json says]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--draws",
    "passes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Cotangents, each a backward pass; if exact, as many as f has outputs.",
)
@click.option(
    "--estimator",
    type=click.Choice(["kfac", "kfac-reduce", "nearest"]),
    default="kfac",
    show_default=True,
)
@output_map_option
@dtype_option
@click.option(
    "--gflops",
    type=click.FloatRange(min=0, min_open=True),
    metavar="RATE",
    help="Estimate the time at so many GFLOP/s.",
)
@click.option(
    "--measure", is_flag=True, help="Estimate the time at the rate of this machine."
)
@json_option
def command(
    model: str,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    tables: bool,
    tokens: int | None,
    image_size: int | None,
    output_map: str | None,
    dtype: str,
    gflops: float | None,
    measure: bool,
    as_json: bool,
    **effort: Any,
) -> None:
    """Say what computing the curvature of MODEL would take.

    No weights are read: MODEL is a Hub id or a directory, and a config.json is enough,
    of a model of any size. Shapes, and who shares an input, are found by a pass without
    numbers. That a parameter is covered is proved only by `compute`.

    \b
    Example:
        kfac plan meta-llama/Llama-3.1-8B --tokens 256 --dtype bfloat16
        kfac plan openai/clip-vit-base-patch32 --modules 'vision_model.*' --measure
        kfac plan ./my-model --json | jq .memory
    """
    from kfac_artifacts.sources import check_model

    if measure and gflops is not None:
        raise click.UsageError("--gflops and --measure are two ways to say the same")
    check_model(model)
    from kfac_artifacts.estimate import Effort, plan
    from kfac_artifacts.sources import blank_examples, load_skeleton

    network = load_skeleton(model, output_map=output_map, dtype=dtype)
    batch = blank_examples(
        network, EXAMPLES_TRACED, tokens=tokens, image_size=image_size
    )
    found = plan(
        network,
        batch,
        only=only,
        exclude=exclude,
        tables=tables,
        effort=Effort(**effort),
    )
    rate = _measured(network) if measure else gflops
    if as_json:
        console.print_json(_to_json(network, found, rate))
    else:
        _print(network, found, rate)


def _measured(network: "Network") -> float:
    import torch

    from kfac_artifacts.estimate.planning.cost import matrix_rate

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return matrix_rate(network.dtype, device) / 1e9


def _to_json(network: "Network", plan: "Plan", rate: float | None) -> dict[str, Any]:
    flops = plan.flops
    count = plan.effort.examples
    per_example = None if flops is None else asdict(flops) | {"total": flops.total}
    total = None if flops is None else flops.total * count
    return {
        "base_model": network.id,
        "revision": network.revision,
        "output_map": network.output_map.info.name,
        "outputs": plan.outputs,
        "dtype": str(network.dtype).removeprefix("torch."),
        **asdict(plan.effort),
        "parameters": plan.parameters,
        "covered": plan.covered,
        "storages": dict(plan.storages),
        "memory": asdict(plan.memory) | {"peak": plan.memory.peak},
        "flops_per_example": per_example,
        "flops": total,
        "gflops_per_second": rate,
        "seconds": None if total is None or rate is None else total / rate / 1e9,
        "untraced": plan.untraced,
        "blocks": [_block_to_json(b, list(plan.storages)) for b in plan.blocks],
        "excluded": list(plan.excluded),
        "uncovered": dict(plan.uncovered),
    }


def _block_to_json(planned: "PlannedBlock", storages: list[str]) -> dict[str, Any]:
    return {
        "name": planned.name,
        "kind": planned.block.kind,
        "parameters": {name: list(shape) for name, shape in planned.shapes.items()},
        "positions": planned.positions,
        "factors": {
            name: {"dim": dim, "structure": planned.structures[name]}
            for name, dim in planned.dims.items()
        },
        "shared": sorted(planned.shared),
        "bytes": {name: planned.nbytes(name) for name in storages},
    }


def _print(network: "Network", plan: "Plan", rate: float | None) -> None:
    outputs = "" if plan.outputs is None else f" of {plan.outputs} outputs"
    click.echo(
        f"{network.id}: {type(network.module).__name__}, "
        f"{network.output_map.info.name}{outputs}, {plan.parameters:,} parameters\n"
    )
    header = ["module", "block", "count", "factors", "positions", "each"]
    console.print_table(header, grouped(plan.blocks))
    shared = any(block.shared for block in plan.blocks)
    note = " (* is shared with a module above)" if shared else ""
    click.echo(f"\n{len(plan.blocks)} blocks, {plan.covered:,} parameters{note}")
    if plan.untraced is not None:
        click.echo(
            "sizes are at most these, from the kinds of modules alone: a pass without "
            f"numbers failed ({plan.untraced}), so positions, operations, activations "
            "and shared inputs are not known"
        )
    sizes = [f"{name} {console.size(n)}" for name, n in plan.storages.items()]
    click.echo(f"artifact: {', '.join(sizes)}")
    _print_cost(network, plan, rate)
    console.print_uncovered(plan.uncovered)
    if plan.excluded:
        click.echo(f"excluded on request: {len(plan.excluded)}")
    click.echo("that the rest is covered is proved only by `kfac compute`")


def _print_cost(network: "Network", plan: "Plan", rate: float | None) -> None:
    effort, memory = plan.effort, plan.memory
    dtype = str(network.dtype).removeprefix("torch.")
    parts = {
        f"weights in {dtype}": memory.weights,
        "sums": memory.sums,
        f"a batch of {effort.batch_size}": memory.activations,
        "records": memory.records or None,
        "proof": memory.proof,
    }
    known = [f"{name} {console.size(n)}" for name, n in parts.items() if n is not None]
    click.echo(f"memory: {', '.join(known)}; peak at least {console.size(memory.peak)}")
    if plan.flops is None:
        return
    each = [f"{name} {operations(n)}" for name, n in asdict(plan.flops).items()]
    total = plan.flops.total * effort.examples
    more = ", without its iterations" if effort.estimator == "nearest" else ""
    click.echo(
        f"operations per example, at least: {', '.join(each)}; "
        f"of {effort.examples} examples: {operations(total)}{more}"
    )
    if rate is not None:
        click.echo(f"time at {rate:,.4g} GFLOP/s: {duration(total / rate / 1e9)}")


def operations(count: float) -> str:
    """Write a number of floating-point operations for a person: ``1.5 GFLOP``."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if count < 1000 or unit == "P":
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Write a time for a person: ``1.5 h``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s"
