"""``kfac plan``: what computing the curvature of a model would take."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from kfac_artifacts.choices import ESTIMATORS
from kfac_cli import console
from kfac_cli.groups import group, option, shared
from kfac_cli.options import (
    CoverageOptions,
    MetaModelOptions,
    batch_size_option,
    examples_option,
    json_option,
    means_option,
)
from kfac_cli.parameters import COUNT, NAMED, POSITIVE
from kfac_cli.plan_streamed import print_streamed, streamed_to_json
from kfac_cli.plan_table import grouped
from kfac_cli.tables import print_table
from kfac_cli.units import duration, operations, size

if TYPE_CHECKING:
    from kfac_artifacts.estimate import Effort, Plan, PlannedBlock
    from kfac_artifacts.network import Batch, Network

EXAMPLES_TRACED = 2


@dataclass(frozen=True)
class ShapeOptions:
    """How large an example is."""

    tokens: int | None = option(
        "--tokens",
        type=COUNT,
        help="Length of every text.  [default: 128, or what the model takes]",
    )
    image_size: int | None = option(
        "--image-size",
        type=COUNT,
        metavar="PIXELS",
        help="Height and width of images.  [default: as config.json says]",
    )

    def batch(self, network: "Network") -> "Batch":
        """Make a batch of this shape, without numbers."""
        from kfac_artifacts.sources import blank_examples

        return blank_examples(
            network, EXAMPLES_TRACED, tokens=self.tokens, image_size=self.image_size
        )


@dataclass(frozen=True)
class EffortOptions:
    """How much would be computed."""

    examples: int = shared(examples_option("would be used"))
    batch_size: int = shared(batch_size_option())
    passes: int = option(
        "--passes",
        type=COUNT,
        default=1,
        show_default=True,
        help="Backward passes per example: the draws, or with exact cotangents as "
        "many as f has outputs.",
    )
    estimator: str = option(
        "--estimator",
        type=click.Choice(list(ESTIMATORS)),
        default="kfac",
        show_default=True,
        help="What `kfac compute` would be told.",
    )
    stream: bool = option(
        "--stream",
        is_flag=True,
        help="Say as well what going through the model block by block would take.",
    )

    def effort(self) -> "Effort":
        """Tell the library."""
        from kfac_artifacts.estimate import Effort, choose_estimator

        estimator = choose_estimator(self.estimator)
        return Effort(self.examples, self.batch_size, self.passes, estimator)


@dataclass(frozen=True)
class RateOptions:
    """How fast it would be computed."""

    gflops: float | None = option(
        "--gflops",
        type=POSITIVE,
        metavar="RATE",
        help="Estimate the time at so many GFLOP/s.",
    )
    measure: bool = option(
        "--measure",
        is_flag=True,
        help="Estimate the time at the rate of this machine.",
    )

    def check(self) -> None:
        """Refuse two answers."""
        if self.measure and self.gflops is not None:
            raise click.UsageError(
                "--gflops and --measure are two ways to say the same"
            )

    def rate(self, network: "Network") -> float | None:
        """GFLOP/s; None if nobody asks for the time."""
        if not self.measure:
            return self.gflops
        import torch

        from kfac_artifacts.estimate import matrix_rate

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return matrix_rate(network.dtype, device) / 1e9


@click.command("plan")
@click.argument("model", type=NAMED)
@group(CoverageOptions)
@means_option
@group(EffortOptions)
@group(ShapeOptions)
@group(MetaModelOptions)
@group(RateOptions)
@json_option
def command(
    model: str,
    coverage: CoverageOptions,
    means: bool,
    effort: EffortOptions,
    shape: ShapeOptions,
    building: MetaModelOptions,
    speed: RateOptions,
    as_json: bool,
) -> None:
    """Say what computing the curvature of MODEL would take.

    No weights are read: MODEL is a Hub id or a directory, and a config.json is enough,
    of a model of any size. Shapes, and who shares an input, are found by a pass without
    numbers. That a parameter is covered is proved only by `compute`. A model of your
    own, module:function, is loaded, and takes --tokens or --image-size.

    \b
    Example:
        kfac plan meta-llama/Llama-3.1-8B --tokens 256 --dtype bfloat16
        kfac plan openai/clip-vit-base-patch32 --modules 'vision_model.*' --measure
        kfac plan Qwen/Qwen3-8B --stream --estimator inputs --batch-size 8
        kfac plan ./my-model --json | jq .memory
    """
    from kfac_artifacts.sources import check_model

    speed.check()
    check_model(model)
    from kfac_artifacts.estimate import plan, plan_streamed

    network = building.build(model)
    batch = shape.batch(network)
    found = plan(
        network,
        batch,
        only=coverage.only,
        exclude=coverage.exclude,
        tables=coverage.tables,
        means=means,
        effort=effort.effort(),
    )
    streamed = plan_streamed(network, batch, found) if effort.stream else None
    rate = speed.rate(network)
    if as_json:
        about = None if streamed is None else streamed_to_json(streamed)
        console.print_json(_to_json(network, found, rate) | {"streamed": about})
        return
    _print(network, found, rate)
    if streamed is not None:
        print_streamed(streamed, found, rate)


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
        "estimator": plan.effort.estimator.name,
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
            name: {"dim": dim, "structure": planned.structures[name].name}
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
    print_table(header, grouped(plan.blocks))
    shared = any(block.shared for block in plan.blocks)
    note = " (* is shared with a module above)" if shared else ""
    click.echo(f"\n{len(plan.blocks)} blocks, {plan.covered:,} parameters{note}")
    if plan.untraced is not None:
        click.echo(
            "sizes are at most these, from the kinds of modules alone: a pass without "
            f"numbers failed ({plan.untraced}), so positions, operations, activations "
            "and shared inputs are not known"
        )
    sizes = [f"{name} {size(n)}" for name, n in plan.storages.items()]
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
    known = [f"{name} {size(n)}" for name, n in parts.items() if n is not None]
    click.echo(f"memory: {', '.join(known)}; peak at least {size(memory.peak)}")
    if plan.flops is None:
        return
    each = [f"{name} {operations(n)}" for name, n in asdict(plan.flops).items()]
    total = plan.flops.total * effort.examples
    uncounted = effort.estimator.cost.uncounted
    more = f", without {uncounted}" if uncounted else ""
    click.echo(
        f"operations per example, at least: {', '.join(each)}; "
        f"of {effort.examples} examples: {operations(total)}{more}"
    )
    if rate is not None:
        click.echo(f"time at {rate:,.4g} GFLOP/s: {duration(total / rate / 1e9)}")
