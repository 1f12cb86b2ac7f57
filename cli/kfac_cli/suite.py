"""``kfac suite``: many tasks and arms, declared in a file, run and reported."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_cli import console
from kfac_cli.options import json_option
from kfac_cli.parameters import DIRECTORY, EXISTING_FILE
from kfac_cli.tables import print_table

if TYPE_CHECKING:
    from kfac_artifacts.suite import Spread, SuiteResults

RESULTS, REPORT = "results.json", "report.html"


@click.command("suite")
@click.argument("file", type=EXISTING_FILE)
@click.option(
    "-o",
    "--output",
    type=DIRECTORY,
    required=True,
    help="Directory for everything that is made; a run that was interrupted, or a "
    "suite that has grown, goes on with what is there.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    help="Where to compute; repeated, each has a process of its own, such as cuda:0 "
    "and cuda:1, or cpu twice.  [default: every GPU, or the cpu]",
)
@json_option
def command(file: Path, output: Path, devices: tuple[str, ...], as_json: bool) -> None:
    """Run the suite that FILE declares: every arm on every task.

    Every arm is trained with every seed. For each the learning rate and λ are chosen by
    the merged model's accuracy on validation data; what is reported is that on test
    data, as a mean over seeds. The results are in OUTPUT/results.json, and as a page in
    OUTPUT/report.html.

    \b
    Example of FILE (TOML):
        name = "two tasks"
        model = "sentence-transformers/all-MiniLM-L6-v2"
        modules = ["encoder.layer.[345].*"]
        seeds = [0, 1, 2]
        search = "cross"  # or "grid": all rates with all weights
        training = {steps = 100, batch_size = 16}
        [[tasks]]
        name = "bank"
        train = "bank/train.csv"
        test = "bank/test.csv"
        [[tasks]]
        name = "home"
        train = "home/train.csv"
        test = "home/test.csv"
        [[curvatures]]
        name = "kfac"
        [[arms]]
        name = "nothing"
        rates = [1e-4, 3e-4]
        merges = ["sum", "ties", {method = "tsv"}]
        [[arms]]
        name = "TAK"
        curvature = "kfac"
        rates = [3e-4, 1e-3]
        weights = [10, 100, 1000]

    What a single choice is worth is declared by an arm beside another that differs in
    it alone: in `weights`, in `every` (the penalty counts in every Nth step), in
    `tasks` (names of some of them), or in its curvature, of other `examples`, `draws`,
    `cotangents` or `estimator`, compressed by a `recipe`, or of a `reference`: data
    that stand for all other tasks.

    \b
    Examples of such:
        [[curvatures]]
        name = "of few"
        examples = 32
        [[arms]]
        name = "TAK, of few"
        curvature = "of few"
        weights = [100]
        every = 4
        tasks = ["bank", "home"]

    \b
    Example:
        kfac suite suite.toml -o suite
    """
    from kfac_artifacts.suite import read_suite

    suite = read_suite(file)
    from kfac_artifacts.format import dump_json, write_durably
    from kfac_artifacts.suite import run_suite, write_report

    results = run_suite(
        suite,
        output,
        devices=devices or _all_devices(),
        progress=partial(console.progress, unit="units"),
    )
    found = results.to_json()
    write_durably(output / RESULTS, dump_json(found))
    write_report(results, output / REPORT)
    if as_json:
        console.print_json(found)
    else:
        _print(results, output)


def _all_devices() -> tuple[str, ...]:
    import torch

    count = torch.cuda.device_count()
    return tuple(f"cuda:{i}" for i in range(count)) or ("auto",)


def _print(results: "SuiteResults", output: Path) -> None:
    rows = [
        [
            results.name_of(row),
            row.merging,
            row.mode,
            ", ".join(f"{alpha:g}" for alpha in dict.fromkeys(row.alphas)),
            f"{row.rate:g}",
            "usual" if row.weight is None else f"{row.weight:g}",
            *(_percent(spread) for spread in row.scores.values()),
        ]
        for row in results.rows
    ]
    click.echo(f"pretrained {100 * results.pretrained:.1f}; in %\n")
    header = ["arm", "merged by", "mode", "α", "rate", "λ"]
    print_table([*header, "merged", "normalised", "alone"], rows)
    click.echo(f"\n{output / RESULTS}, {output / REPORT}: {results.seconds:.0f} s")


def _percent(spread: "Spread") -> str:
    found = f"{100 * spread.mean:.1f}"
    if spread.deviation is None:
        return found
    return f"{found} ± {100 * spread.deviation:.1f}"
