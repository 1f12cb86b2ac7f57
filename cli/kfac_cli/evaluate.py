"""``kfac evaluate``: accuracy of task vectors alone and added together."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.options import NAMED, data_options, json_option, model_options

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import Evaluation, EvaluationTask, ModeScores
    from kfac_artifacts.network import Network

MOST_ALPHAS = 1000


@click.command("evaluate")
@click.argument("model", type=NAMED)
@click.argument("pairs", metavar="TAU=DATA...", type=NAMED, nargs=-1, required=True)
@click.option("--alpha", type=float, help="Factor of the sum.  [default: 1]")
@click.option(
    "--sweep", metavar="START:STOP:STEP", help="Factors from START to STOP instead."
)
@click.option(
    "--mode",
    type=click.Choice(["linear", "plain", "both"]),
    default="both",
    show_default=True,
    help="f + J tau as in training, f(theta + tau) as `kfac apply` writes it, or both.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the accuracies into this png, pdf or svg file.",
)
@click.option("--label-column", default="label", show_default=True)
@data_options
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@model_options
@json_option
def command(
    model: str,
    pairs: tuple[str, ...],
    alpha: float | None,
    sweep: str | None,
    mode: str,
    plot: Path | None,
    batch_size: int,
    output_map: str | None,
    device: str,
    dtype: str,
    as_json: bool,
    **columns: Any,
) -> None:
    """Measure accuracy of MODEL with each TAU, and with their sum.

    Every TAU comes with labelled data of its task, best data that it was not trained
    on. Normalised accuracy is merged divided by individual, task by task. A sweep in
    linear mode costs no more than a single factor.

    \b
    Example:
        kfac evaluate my-model tau-a=a-test.csv tau-b=b-test.csv --sweep 0:2:0.1 \\
            --plot alphas.png
    """
    from kfac_artifacts.evaluate import MODES, evaluate, plot_evaluation
    from kfac_artifacts.evaluate.plot import check_plottable
    from kfac_artifacts.sources import load_network

    if alpha is not None and sweep is not None:
        raise click.UsageError("give --alpha or --sweep, not both")
    alphas = (1.0 if alpha is None else alpha,) if sweep is None else grid(sweep)
    split = dict(split_pair(pair) for pair in pairs)
    if len(split) != len(pairs):
        raise click.UsageError("a task vector occurs twice; every TAU counts once")
    if plot is not None:
        check_plottable(plot, [model, *split, *split.values()])
    network = load_network(model, output_map=output_map, device=device, dtype=dtype)
    tasks = load_tasks(network, split, **columns)
    modes = MODES if mode == "both" else (mode,)
    total = sum(len(task.examples) for task in tasks) * len(modes)
    with console.progress("evaluating", total, "examples") as advance:
        found = evaluate(
            network,
            tasks,
            alphas=alphas,
            modes=modes,
            batch_size=batch_size,
            progress=advance,
        )
    if plot is not None:
        plot_evaluation(found, plot)
    if as_json:
        console.print_json(found.to_json())
    else:
        _print(found)


def split_pair(pair: str) -> tuple[str, str]:
    """Split ``TAU=DATA`` at the first equals sign."""
    vector, equals, data = pair.partition("=")
    if not (vector and equals and data):
        raise click.UsageError(f"{pair!r} is not TAU=DATA")
    return vector, data


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


def load_tasks(
    network: "Network", pairs: dict[str, str], **columns: Any
) -> "list[EvaluationTask]":
    """Load every task vector, and its data with the classes of its head."""
    from kfac_artifacts.evaluate import EvaluationTask
    from kfac_artifacts.sources import load_examples
    from kfac_artifacts.task_vector import TaskVector

    names = [Path(path).name for path in pairs]
    tasks = []
    for (path, data), name in zip(pairs.items(), names, strict=True):
        vector = TaskVector.load(path)
        classes = () if vector.head is None else vector.head.classes
        examples = load_examples(data, network, classes=classes, **columns)
        unique = name if names.count(name) == 1 else path
        tasks.append(EvaluationTask(unique, vector, examples))
    return tasks


def _print(evaluation: "Evaluation") -> None:
    for i, scores in enumerate(evaluation.modes):
        if i:
            click.echo()
        _print_mode(scores)


def _print_mode(scores: "ModeScores") -> None:
    best, sweep = scores.best, len(scores.alphas) > 1
    chosen = "best alpha" if sweep else "alpha"
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
    console.print_table(header, rows)
    if sweep:
        click.echo()
        names = [task.name for task in scores.tasks]
        console.print_table(
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


def percent(fraction: float | None) -> float | str:
    """Write a fraction in percent, with one digit."""
    return "-" if fraction is None else round(100 * fraction, 1)
