"""``kfac fidelity``: how well an artifact predicts drift on data it has not seen."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.data import open_data, read, take_reading, tell
from kfac_cli.given import check_artifacts, check_vectors
from kfac_cli.options import (
    DIRECTORY,
    NAMED,
    batch_size_option,
    data_options,
    json_option,
    keep_option,
    model_options,
)

if TYPE_CHECKING:
    from kfac_artifacts.fidelity import Comparison, Fidelity, ModuleFidelity
    from kfac_artifacts.sources import ImageExamples, TextExamples


@click.command("fidelity")
@click.argument("artifact", type=DIRECTORY)
@click.argument("model", type=NAMED)
@click.argument("data", type=NAMED)
@click.option(
    "--examples",
    "count",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="How many examples to hold out, chosen by the seed.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the choice of examples, the cotangents and the directions.",
)
@click.option(
    "--cotangents",
    type=click.Choice(["mc", "exact"]),
    default="mc",
    show_default=True,
    help="Independent random vectors, or all unit vectors (as many passes as f has "
    "outputs).",
)
@click.option(
    "--draws", type=click.IntRange(min=1), help="Vectors per example.  [default: 1]"
)
@click.option(
    "--directions",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="How many random directions, and how many gradients.",
)
@click.option(
    "--directions-data",
    type=NAMED,
    metavar="DATA",
    help="Take gradients of these data.  [default: of other examples of DATA]",
)
@click.option(
    "--task-vector",
    "task_vectors",
    type=DIRECTORY,
    multiple=True,
    help="Take this task vector as a direction, too; may be repeated.",
)
@keep_option("Activations to keep; modules that do not fit together come in turns.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Print the modules that have most of the error; JSON has all.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw drifts and errors into this png, pdf or svg file.",
)
@data_options
@batch_size_option
@model_options
@json_option
def command(
    artifact: Path,
    model: str,
    data: str,
    cotangents: str,
    draws: int | None,
    directions_data: str | None,
    task_vectors: tuple[Path, ...],
    memory: float,
    top: int,
    plot: Path | None,
    output_map: str | None,
    device: str,
    dtype: str,
    as_json: bool,
    max_length: int | None,
    prompt: str | None,
    **choices: Any,
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
    if cotangents == "exact" and draws is not None:
        raise click.UsageError("--draws does not go with --cotangents exact")
    data_of = (data,) if directions_data is None else (data, directions_data)
    _check_paths(artifact, task_vectors, plot, [model, *data_of])
    reading = take_reading(choices)
    opened_data = open_data(model, data, dict(reading))
    other = None
    if directions_data is not None:
        other = read(directions_data, **reading | {"split": None})
    from kfac_artifacts.fidelity import fidelity, plot_fidelity, verdict
    from kfac_artifacts.format import load_artifact
    from kfac_artifacts.sources import encode_data, load_network

    opened = load_artifact(artifact, verify=False)
    network = load_network(model, output_map=output_map, device=device, dtype=dtype)
    encode = partial(encode_data, network=network, max_length=max_length, prompt=prompt)
    examples = encode(opened_data)
    directions = None if other is None else encode(other)
    found = fidelity(
        opened,
        network,
        examples,
        draws=None if cotangents == "exact" else draws or 1,
        directions_data=directions,
        task_vectors=_load_all(task_vectors),
        memory=int(memory * 10**9),
        progress=partial(console.progress, unit="examples"),
        **choices,
    )
    if plot is not None:
        plot_fidelity(found, plot)
    accounts = _tell(found, examples, directions)
    if as_json:
        said = {"verdict": verdict(found)}
        console.print_json({**said, **accounts, **found.to_json()})
    else:
        _print(found, top)


def _check_paths(
    artifact: Path, task_vectors: tuple[Path, ...], plot: Path | None, others: list[str]
) -> None:
    """Refuse what is mistyped before anything slow is imported."""
    check_artifacts([artifact])
    check_vectors(task_vectors)
    if plot is not None:
        from kfac_artifacts.evaluate.plot import check_plottable

        check_plottable(plot, [artifact, *task_vectors, *others])


def _tell(
    found: "Fidelity",
    examples: "TextExamples | ImageExamples",
    directions: "TextExamples | ImageExamples | None",
) -> dict[str, Any]:
    accounts = {"read": tell(examples, found.held_out.data.examples)}
    if directions is not None:
        accounts["read_for_directions"] = tell(directions)
    if found.held_out.doubt is not None:
        click.echo(f"Warning: {found.held_out.doubt}", err=True)
    return accounts


def _load_all(paths: tuple[Path, ...]) -> dict[str, Any]:
    from kfac_artifacts.task_vector import TaskVector

    names = [path.name for path in paths]
    return {
        path.name if names.count(path.name) == 1 else str(path): TaskVector.load(path)
        for path in paths
    }


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
    console.print_table(header, rows)
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
    console.print_table(header, rows)


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


def number(value: float | None) -> float | str:
    """Write a number with three digits, or a dash where there is none."""
    return "-" if value is None else float(f"{value:.3g}")
