"""``kfac evaluate``: accuracy of task vectors alone and added together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.data import EncodeOptions
from kfac_cli.given import check_artifacts, check_plot, check_vectors
from kfac_cli.groups import group, option, shared
from kfac_cli.heads import HeadOptions
from kfac_cli.merge_options import MergeOptions
from kfac_cli.options import (
    ModelOptions,
    batch_size_option,
    json_option,
    mode_option,
    modes_of,
    plot_option,
)
from kfac_cli.parameters import NAMED
from kfac_cli.protocols import CONTROL, Measured, ProtocolOptions
from kfac_cli.scores import draw, show
from kfac_cli.tasks import TaskDataOptions, load_tasks, places, split_pairs

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import ControlTask, EvaluationTask
    from kfac_artifacts.network import LabelledExamples, Network
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
    mode: str = shared(
        mode_option(
            "Score f + J tau as in training, f(theta + tau) as `kfac apply` writes, or "
            "both."
        )
    )

    @property
    def modes(self) -> tuple[str, ...]:
        """The forms, one after the other."""
        return modes_of(self.mode)

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
@group(ProtocolOptions)
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
    measuring: ProtocolOptions,
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

    Other protocols answer other questions. Among the classes of all tasks (union) an
    example of one may be taken for another's. Of what is left of a task when its TAU is
    subtracted (negation), the factor is best that leaves the least and keeps --control.
    Two TAU are disentangled as far as both together answer as each alone does on its
    own task (disentanglement): the error is the sum of both rates of other answers.

    \b
    Example:
        kfac evaluate my-model tau-a=a-test.csv tau-b=b-test.csv --sweep 0:2:0.1 \\
            --plot alphas.png
        kfac evaluate my-model tau-a=a.csv tau-b=b.tsv:question,intent
        kfac evaluate my-model tau-a=a.csv tau-b=b.tsv --text-column tau-b=question \\
            --label-column tau-b=intent
        kfac evaluate my-model tau-a=a.csv tau-b=b.csv --sweep 0:2:0.1 \\
            --validation tau-a=a-dev.csv --validation tau-b=b-dev.csv
        kfac evaluate my-model tau-a=a.csv tau-b=b.csv --protocol union
        kfac evaluate my-model tau-a=a.csv --protocol negation --sweep 0:1:0.05 \\
            --control news.csv --control-validation news-dev.csv \\
            --validation tau-a=a-dev.csv
        kfac evaluate my-model tau-a=a.csv tau-b=b.csv --sweep -3:3:0.3 \\
            --protocol disentanglement --plot errors.png
    """
    from kfac_artifacts.sources import check_model

    alphas, data = scored.alphas(), split_pairs(pairs)
    measuring.check(data)
    vectors = [Path(path) for path in data]
    artifacts = merging.artifacts(vectors)
    chosen_on = choosing.data(scored, data)
    tested = {**data, **measuring.tested}
    chosen_on |= measuring.chosen_on(bool(chosen_on), choosing.validation_split)
    check_plot(plot, [model, *data, *places(tested, chosen_on), *artifacts])
    check_vectors(vectors)
    check_artifacts(artifacts)
    check_model(model)
    opened = reading.read(tested)
    held_out = choosing.read(reading, chosen_on)
    method = merging.method(artifacts)

    network = loading.load_embedding(model)
    tasks, others, control, read = _load(
        network, measuring, opened, held_out, head, encoding
    )
    measured = Measured(
        network, tasks, others, control, alphas, scored.modes, method, batch_size
    )
    with console.progress("evaluating", measured.count, "examples") as advance:
        found = measured.run(measuring.protocol, advance)
    if plot is not None:
        draw(measuring.protocol, found, plot)
    if as_json:
        about = {"read": read, "warnings": console.SPOKEN.said}
        console.print_json({**found.to_json(), **about})
    else:
        show(measuring.protocol, found)


def _load(
    network: "Network",
    measuring: ProtocolOptions,
    opened: "dict[str, Data]",
    held_out: "dict[str, Data]",
    head: HeadOptions,
    encoding: EncodeOptions,
) -> "tuple[list[EvaluationTask], list[LabelledExamples], ControlTask | None, Any]":
    """Load tasks, validation data and control; the last is what was read, as JSON."""
    kept = (opened.pop(CONTROL, None), held_out.pop(CONTROL, None))
    tasks, accounts = load_tasks(network, opened, encoding)
    control, of_control = measuring.load_control(network, *kept, head, encoding)
    if control is None or any(task.vector.head is None for task in tasks):
        tasks = head.complete(network, tasks, prompt=encoding.prompt)
    others, more = load_tasks(network, held_out, encoding)
    validation = [task.examples for task in others]
    return tasks, validation, control, [*accounts, *more, *of_control]


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
