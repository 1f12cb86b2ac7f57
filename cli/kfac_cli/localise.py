"""``kfac localise``: what task vectors do to single examples, in and out of a task."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_cli import console
from kfac_cli.data import EncodeOptions, tell
from kfac_cli.given import check_plot, check_vectors
from kfac_cli.groups import group
from kfac_cli.options import (
    ModelOptions,
    batch_size_option,
    json_option,
    mode_option,
    modes_of,
    plot_option,
)
from kfac_cli.parameters import NAMED
from kfac_cli.tables import print_table
from kfac_cli.tasks import SeveralDataOptions, places, short_names, split_pairs
from kfac_cli.units import number

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import Localisation


@click.command("localise")
@click.argument("model", type=NAMED)
@click.argument("pairs", metavar="TAU=DATA...", type=NAMED, nargs=-1, required=True)
@click.option(
    "--outside",
    metavar="DATA",
    multiple=True,
    type=NAMED,
    help="More data that are of none of the tasks; may be repeated.",
)
@mode_option("Square J tau, f(theta + tau) - f(theta), or both.")
@plot_option
@group(SeveralDataOptions)
@group(EncodeOptions)
@batch_size_option(64)
@group(ModelOptions)
@json_option
def command(
    model: str,
    pairs: tuple[str, ...],
    outside: tuple[str, ...],
    mode: str,
    plot: Path | None,
    reading: SeveralDataOptions,
    encoding: EncodeOptions,
    batch_size: int,
    loading: ModelOptions,
    as_json: bool,
) -> None:
    """Tell examples of a task from others by what its TAU moves.

    The score of an example is how far TAU moves the output of MODEL on it, squared. A
    task vector that was held back on other data moves little there: the score says
    whether an example is of its task. Every TAU is scored on its own DATA and on those
    of all others. AUROC is the chance that an example of the task scores higher than
    another; 0.5 tells nothing. No labels are needed.

    \b
    Example:
        kfac localise my-model tau-a=a-test.csv tau-b=b-test.csv --plot scores.png
        kfac localise my-model tau-a=a-test.csv --outside news.csv --mode linear
    """
    from kfac_artifacts.sources import check_model

    data = split_pairs(pairs)
    vectors = [Path(path) for path in data]
    everything = {**data, **{path: path for path in outside}}
    if len(everything) < 2:
        raise click.UsageError(
            "an AUROC needs data that are of another task; give --outside, or more TAU"
        )
    check_plot(plot, [model, *data, *places(everything)])
    check_vectors(vectors)
    check_model(model)
    opened = reading.read(everything)
    from kfac_artifacts.evaluate import localise, plot_localisation
    from kfac_artifacts.task_vector import TaskVector

    network = loading.load_embedding(model)
    names = short_names(everything)
    examples = {names[p]: encoding.encode(d, network) for p, d in opened.items()}
    accounts = [tell(each, len(each)) for each in examples.values()]
    modes = modes_of(mode)
    total = sum(map(len, examples.values())) * len(modes)
    with console.progress("scoring", total, "examples") as advance:
        found = localise(
            network,
            {names[path]: TaskVector.load(path) for path in data},
            examples,
            modes=modes,
            batch_size=batch_size,
            progress=advance,
        )
    if plot is not None:
        plot_localisation(found, plot)
    if as_json:
        about = {"read": accounts, "warnings": console.SPOKEN.said}
        console.print_json({**found.to_json(), **about})
    else:
        _print(found)


def _print(found: "Localisation") -> None:
    for i, (mode, vectors) in enumerate(found.modes.items()):
        click.echo(f"{'' if i == 0 else chr(10)}{mode}, squared change of f")
        rows = [
            [
                each.name,
                len(each.inside),
                number(each.inside.mean().item()),
                len(each.outside),
                number(each.outside.mean().item()),
                round(each.auroc, 3),
            ]
            for each in vectors
        ]
        print_table(["task", "in task", "mean", "others", "mean", "AUROC"], rows)
