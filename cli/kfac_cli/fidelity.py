"""``kfac fidelity``: how well an artifact predicts drift on data it has not seen."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.data import ChatDataOptions, PackOptions, tell
from kfac_cli.given import check_artifacts, check_plot, check_vectors
from kfac_cli.groups import group, option, shared
from kfac_cli.options import (
    ModelOptions,
    batch_size_option,
    examples_option,
    json_option,
    memory_option,
    plot_option,
    seed_option,
    task_vectors_option,
    vectors_per_example,
)
from kfac_cli.parameters import COUNT, DIRECTORY, NAMED, NATURAL
from kfac_cli.tables import print_table
from kfac_cli.units import number

if TYPE_CHECKING:
    from kfac_artifacts.fidelity import Comparison, Fidelity, ModuleFidelity
    from kfac_artifacts.sources import Data, ImageExamples, TextExamples
    from kfac_artifacts.task_vector import TaskVector


@dataclass(frozen=True)
class HeldOutOptions:
    """Which examples are looked at, and how closely."""

    examples: int = shared(examples_option("to hold out, chosen by the seed"))
    seed: int = shared(
        seed_option("the choice of examples, the cotangents and the directions")
    )
    cotangents: str = option(
        "--cotangents",
        type=click.Choice(["mc", "exact"]),
        default="mc",
        show_default=True,
        help="Independent random vectors, or all unit vectors (as many passes as f "
        "has outputs).",
    )
    draws: int | None = option(
        "--draws", type=COUNT, help="Vectors per example.  [default: 1]"
    )

    def vectors(self) -> int | None:
        """Random vectors per example; None for all unit vectors."""
        return vectors_per_example(self.cotangents, self.draws)


@dataclass(frozen=True)
class DirectionOptions:
    """Along what the artifact predicts."""

    directions: int = option(
        "--directions",
        type=NATURAL,
        default=4,
        show_default=True,
        help="How many random directions, and how many gradients.",
    )
    directions_data: str | None = option(
        "--directions-data",
        type=NAMED,
        metavar="DATA",
        help="Take gradients of these data.  [default: of other examples of DATA]",
    )
    task_vectors: tuple[Path, ...] = shared(task_vectors_option)

    @property
    def inputs(self) -> list[str | Path]:
        """All that is read."""
        more = [] if self.directions_data is None else [self.directions_data]
        return [*self.task_vectors, *more]

    def read(self, reading: ChatDataOptions) -> "Data | None":
        """Read the data that gradients are of, if there are such."""
        if self.directions_data is None:
            return None
        return replace(reading, split=None).read_any(self.directions_data)

    def load(self) -> "dict[str, TaskVector]":
        """Load the task vectors, by their names or, if these are alike, their paths."""
        from kfac_artifacts.task_vector import TaskVector

        names = [path.name for path in self.task_vectors]
        return {
            path.name if names.count(path.name) == 1 else str(path): vector
            for path in self.task_vectors
            for vector in [TaskVector.load(path)]
        }


@click.command("fidelity")
@click.argument("artifact", type=DIRECTORY)
@click.argument("model", type=NAMED)
@click.argument("data", type=NAMED)
@group(HeldOutOptions)
@group(DirectionOptions)
@memory_option("Activations to keep; modules that do not fit together come in turns.")
@click.option(
    "--top",
    type=COUNT,
    default=20,
    show_default=True,
    help="Print the modules that have most of the error; JSON has all.",
)
@plot_option
@group(ChatDataOptions)
@group(PackOptions)
@batch_size_option()
@group(ModelOptions)
@json_option
def command(
    artifact: Path,
    model: str,
    data: str,
    held_out: HeldOutOptions,
    along: DirectionOptions,
    memory: int,
    top: int,
    plot: Path | None,
    reading: ChatDataOptions,
    encoding: PackOptions,
    batch_size: int,
    loading: ModelOptions,
    as_json: bool,
) -> None:
    """Compare ARTIFACT with the true curvature on held-out DATA.

    Of every module and of all together: the relative Frobenius error, estimated without
    bias; the cosine; and predicted divided by true drift, along random directions,
    gradients of other data, and task vectors. If DATA are those that the artifact was
    computed from, the examples that it has seen are left out.

    \b
    Example:
        kfac fidelity tickets sentence-transformers/all-MiniLM-L6-v2 tickets-test.csv
        kfac fidelity total ./my-model mails.csv --task-vector tau-mails --json
    """
    from kfac_artifacts.sources import check_model

    draws = held_out.vectors()
    check_artifacts([artifact])
    check_vectors(along.task_vectors)
    check_plot(plot, [artifact, model, data, *along.inputs])
    check_model(model)
    opened, other = reading.read_any(data), along.read(reading)
    from kfac_artifacts.fidelity import fidelity, plot_fidelity, verdict
    from kfac_artifacts.format import load_artifact

    network = loading.load_for(model, artifact)
    examples = encoding.encode(opened, network)
    others = None if other is None else encoding.encode(other, network)
    found = fidelity(
        load_artifact(artifact, verify=False),
        network,
        examples,
        count=held_out.examples,
        seed=held_out.seed,
        draws=draws,
        directions=along.directions,
        directions_data=others,
        task_vectors=along.load(),
        memory=memory,
        batch_size=batch_size,
        progress=partial(console.progress, unit="examples"),
    )
    if plot is not None:
        plot_fidelity(found, plot)
    accounts = _tell(found, examples, others)
    if as_json:
        said = {"verdict": verdict(found)}
        console.print_json({**said, **accounts, **found.to_json()})
    else:
        _print(found, top)


def _tell(
    found: "Fidelity",
    examples: "TextExamples | ImageExamples",
    directions: "TextExamples | ImageExamples | None",
) -> dict[str, Any]:
    accounts = {"read": tell(examples, found.held_out.data.examples)}
    if directions is not None:
        accounts["read_for_directions"] = tell(directions)
    if found.held_out.doubt is not None:
        console.warn([found.held_out.doubt])
    return accounts


def _print(found: "Fidelity", top: int) -> None:
    from kfac_artifacts.fidelity import verdict

    held = found.held_out
    left_out = f" ({held.known} seen by the artifact left out)" if held.known else ""
    click.echo(
        f"held out: {held.data.examples} of {held.data.size} examples of "
        f"{held.data.id}{left_out}; {found.cotangents.name} cotangents\n"
    )
    shown = sorted(found.modules, key=found.share, reverse=True)[:top]
    header = ["module", "error", "+/-", "cosine", *found.directions, "share, %"]
    rows = [_row(found, module) for module in shown]
    rows.append(["in total", *_numbers(found.total), *_ratios(found), 100.0])
    print_table(header, rows)
    if len(shown) < len(found.modules):
        click.echo(f"and {len(found.modules) - len(shown)} modules with less error")
    if found.directions:
        _print_directions(found)
    click.echo()
    for sentence in verdict(found):
        click.echo(sentence)


def _print_directions(found: "Fidelity") -> None:
    click.echo("\npredicted / true drift along directions, and rank correlation:")
    rows: list[list[object]] = []
    for kind, directions in found.directions.items():
        whole, single = directions.agreement, directions.modules
        for of, each in (("all modules together", whole), ("single modules", single)):
            values = (each.ratio, each.spread, each.rank_correlation)
            rows.append([kind, of, each.count, *map(number, values)])
    header = ["directions", "of", "count", "ratio", "spread", "ranks"]
    print_table(header, rows)


def _row(found: "Fidelity", module: "ModuleFidelity") -> list[object]:
    from kfac_artifacts.fidelity import agreement

    ratios = [
        number(agreement(module.drifts.get(kind, [])).ratio)
        for kind in found.directions
    ]
    share = round(100 * found.share(module), 1)
    return [module.name, *_numbers(module.comparison), *ratios, share]


def _numbers(comparison: "Comparison") -> list[object]:
    of = (comparison.error, comparison.uncertainty, comparison.cosine)
    return [number(value) for value in of]


def _ratios(found: "Fidelity") -> list[object]:
    return [number(each.agreement.ratio) for each in found.directions.values()]
