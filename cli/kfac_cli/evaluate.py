"""``kfac evaluate``: accuracy of task vectors alone and added together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import MODES
from kfac_cli import console
from kfac_cli.data import EncodeOptions
from kfac_cli.given import check_artifacts, check_plot, check_vectors
from kfac_cli.groups import group, option
from kfac_cli.heads import HeadOptions
from kfac_cli.merge_options import MergeOptions
from kfac_cli.options import (
    ModelOptions,
    batch_size_option,
    json_option,
    plot_option,
)
from kfac_cli.parameters import NAMED
from kfac_cli.tables import print_table
from kfac_cli.tasks import TaskDataOptions, load_tasks, places, split_pairs
from kfac_cli.units import percent

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import Evaluation, ModeScores
    from kfac_artifacts.sources import Data

MOST_ALPHAS = 1000
PAIRS = "TAU=DATA[:TEXT,LABEL]..."


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored: which sums, and in which form."""

    alpha: float | None = option(
        "--alpha", type=float, help="Factor of what they are merged to.  [default: 1]"
    )
    sweep: str | None = option(
        "--sweep",
        metavar="START:STOP:STEP",
        help="Factors from START to STOP instead.",
    )
    mode: str = option(
        "--mode",
        type=click.Choice([*MODES, "both"]),
        default="both",
        show_default=True,
        help="Score f + J tau as in training, f(theta + tau) as `kfac apply` writes, "
        "or both.",
    )

    @property
    def modes(self) -> tuple[str, ...]:
        """The forms, one after the other."""
        return MODES if self.mode == "both" else (self.mode,)

    def alphas(self) -> tuple[float, ...]:
        """The factors of the sum."""
        if self.sweep is None:
            return (1.0 if self.alpha is None else self.alpha,)
        if self.alpha is not None:
            raise click.UsageError("give --alpha or --sweep, not both")
        return grid(self.sweep)


@dataclass(frozen=True)
class ValidationOptions:
    """On which data a factor is chosen."""

    validation: tuple[str, ...] = option(
        "--validation",
        multiple=True,
        metavar="TAU=DATA",
        help="Choose the factor out of --sweep on these data, and report that one on "
        "the others; once for every TAU.",
    )
    validation_split: str | None = option(
        "--validation-split",
        metavar="NAME",
        help="Split of the data that the factor is chosen on; without --validation, of "
        "the same data.",
    )

    def data(self, scored: ScoreOptions, tested: Mapping[str, str]) -> dict[str, str]:
        """The data by task vector, in the order of those that are reported on."""
        if not self.validation and self.validation_split is None:
            return {}
        if scored.sweep is None:
            raise click.UsageError("choosing a factor needs several; give --sweep")
        found = split_pairs(self.validation) if self.validation else tested
        if found.keys() != tested.keys():
            unlike = ", ".join(sorted(found.keys() ^ tested.keys()))
            raise click.UsageError(
                "--validation needs data for every TAU that is reported on, and for no "
                f"other; see {unlike}"
            )
        return {path: found[path] for path in tested}

    def read(
        self, reading: TaskDataOptions, data: Mapping[str, str]
    ) -> "dict[str, Data]":
        """Read them as the others, from a split of their own if it is given."""
        split = (
            reading.split if self.validation_split is None else self.validation_split
        )
        return replace(reading, split=split).read(data)


@click.command("evaluate")
@click.argument("model", type=NAMED)
@click.argument("pairs", metavar=PAIRS, type=NAMED, nargs=-1, required=True)
@group(ScoreOptions)
@group(ValidationOptions)
@group(MergeOptions)
@plot_option
@group(HeadOptions)
@group(TaskDataOptions)
@group(EncodeOptions)
@batch_size_option(64)
@group(ModelOptions)
@json_option
def command(
    model: str,
    pairs: tuple[str, ...],
    scored: ScoreOptions,
    choosing: ValidationOptions,
    merging: MergeOptions,
    plot: Path | None,
    head: HeadOptions,
    reading: TaskDataOptions,
    encoding: EncodeOptions,
    batch_size: int,
    loading: ModelOptions,
    as_json: bool,
) -> None:
    """Measure accuracy of MODEL with each TAU, and with all.

    Every TAU comes with labelled data of its task, best data that it was not trained
    on. Normalised accuracy is merged divided by individual, task by task. A sweep in
    linear mode costs no more than a single factor. A task vector that was saved without
    a head is given one for the classes of its data, as --head says. Columns that differ
    from task to task stand behind the data, as TAU=DATA:TEXT,LABEL, or are given as
    --text-column TAU=NAME, and the same for labels and images. A factor that was chosen
    on the data that it is reported on looks better than it is: with --validation it is
    chosen on others.

    \b
    Example:
        kfac evaluate my-model tau-a=a-test.csv tau-b=b-test.csv --sweep 0:2:0.1 \\
            --plot alphas.png
        kfac evaluate my-model tau-a=a.csv tau-b=b.tsv:question,intent
        kfac evaluate my-model tau-a=a.csv tau-b=b.tsv --text-column tau-b=question \\
            --label-column tau-b=intent
        kfac evaluate my-model tau-a=a.csv tau-b=b.csv --sweep 0:2:0.1 \\
            --validation tau-a=a-dev.csv --validation tau-b=b-dev.csv
    """
    from kfac_artifacts.sources import check_model

    alphas, data = scored.alphas(), split_pairs(pairs)
    vectors = [Path(path) for path in data]
    artifacts = merging.artifacts(vectors)
    chosen_on = choosing.data(scored, data)
    check_plot(plot, [model, *data, *places(data, chosen_on), *artifacts])
    check_vectors(vectors)
    check_artifacts(artifacts)
    check_model(model)
    opened = reading.read(data)
    held_out = choosing.read(reading, chosen_on)
    method = merging.method(artifacts)
    from kfac_artifacts.evaluate import evaluate, plot_evaluation

    network = loading.load(model)
    tasks, accounts = load_tasks(network, opened, encoding)
    tasks = head.complete(network, tasks, prompt=encoding.prompt)
    others, more = load_tasks(network, held_out, encoding)
    validation = [task.examples for task in others]
    counts = [len(data) for data in (*(task.examples for task in tasks), *validation)]
    total = sum(counts) * len(scored.modes)
    with console.progress("evaluating", total, "examples") as advance:
        found = evaluate(
            network,
            tasks,
            alphas=alphas,
            modes=scored.modes,
            method=method,
            validation=validation or None,
            batch_size=batch_size,
            progress=advance,
        )
    if plot is not None:
        plot_evaluation(found, plot)
    if as_json:
        about = {"read": [*accounts, *more], "warnings": console.SPOKEN.said}
        console.print_json({**found.to_json(), **about})
    else:
        _print(found)


def grid(sweep: str) -> tuple[float, ...]:
    """List the numbers of ``START:STOP:STEP``, both ends included."""
    try:
        start, stop, step = map(float, sweep.split(":"))
        count = round((stop - start) / step) + 1
    except (ValueError, ZeroDivisionError, OverflowError):
        raise click.UsageError(f"--sweep {sweep!r} is not START:STOP:STEP") from None
    if not 1 <= count <= MOST_ALPHAS:
        raise click.UsageError(
            f"--sweep {sweep!r} has {count} factors, not 1 to {MOST_ALPHAS}"
        )
    return tuple(round(start + i * step, 10) for i in range(count))


def _print(evaluation: "Evaluation") -> None:
    for i, scores in enumerate(evaluation.modes):
        if i:
            click.echo()
        if evaluation.validation:
            _print_mode(scores, "alpha")
            click.echo("\nchosen on validation data:")
            _print_mode(evaluation.validation[i], "best alpha")
        else:
            _print_mode(scores, "best alpha" if len(scores.alphas) > 1 else "alpha")


def _print_mode(scores: "ModeScores", chosen: str) -> None:
    best = scores.best
    click.echo(f"{scores.mode}, at {chosen} {scores.alphas[best]:g}, in %")
    rows = [
        [
            task.name,
            task.examples,
            percent(task.pretrained),
            percent(task.individual),
            percent(task.merged[best]),
            percent(task.normalised[best]),
        ]
        for task in scores.tasks
    ]
    total = sum(task.examples for task in scores.tasks)
    means = (scores.pretrained, scores.individual, scores.absolute[best])
    rows.append(["mean", total, *map(percent, means), percent(scores.normalised[best])])
    header = ["task", "examples", "pretrained", "individual", "merged", "normalised"]
    print_table(header, rows)
    if len(scores.alphas) > 1:
        click.echo()
        names = [task.name for task in scores.tasks]
        print_table(
            ["alpha", *names, "mean", "normalised"],
            [
                [
                    alpha,
                    *(percent(task.merged[i]) for task in scores.tasks),
                    percent(scores.absolute[i]),
                    percent(scores.normalised[i]),
                ]
                for i, alpha in enumerate(scores.alphas)
            ],
        )
