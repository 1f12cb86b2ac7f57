"""``kfac evaluate``: accuracy of task vectors alone and added together."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.data import of_task, read, tell
from kfac_cli.given import check_vectors
from kfac_cli.heads import with_heads
from kfac_cli.options import (
    NAMED,
    json_option,
    length_option,
    model_options,
    prompt_option,
    table_options,
)
from kfac_cli.train_options import head_options

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import Evaluation, EvaluationTask, ModeScores
    from kfac_artifacts.network import Network
    from kfac_artifacts.sources import Data

MOST_ALPHAS = 1000
MANIFEST = "task_vector.json"  # what makes a directory a task vector


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
@head_options
@click.option(
    "--label-column",
    "label_columns",
    multiple=True,
    metavar="[TAU=]NAME",
    help="Column with the class, of one task or of all.  [default: label]",
)
@table_options
@click.option(
    "--image-column",
    "image_columns",
    multiple=True,
    metavar="[TAU=]NAME",
    help="Column with the image. [default: found by type]",
)
@length_option
@prompt_option
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
    head_kind: str | None,
    texts_file: Path | None,
    template: str,
    logit_scale: float | None,
    **columns: Any,
) -> None:
    """Measure accuracy of MODEL with each TAU, and with their sum.

    Every TAU comes with labelled data of its task, best data that it was not trained
    on. Normalised accuracy is merged divided by individual, task by task. A sweep in
    linear mode costs no more than a single factor. A task vector that was saved without
    a head is given one for the classes of its data, as --head says. Columns that differ
    from task to task are given as --text-column TAU=NAME, and the same for labels and
    images.

    \b
    Example:
        kfac evaluate my-model tau-a=a-test.csv tau-b=b-test.csv --sweep 0:2:0.1 \\
            --plot alphas.png
        kfac evaluate my-model tau-a=a.csv tau-b=b.tsv --text-column tau-b=question \\
            --label-column tau-b=intent
    """
    if alpha is not None and sweep is not None:
        raise click.UsageError("give --alpha or --sweep, not both")
    alphas = (1.0 if alpha is None else alpha,) if sweep is None else grid(sweep)
    split = dict(split_pair(pair) for pair in pairs)
    if len(split) != len(pairs):
        raise click.UsageError("a task vector occurs twice; every TAU counts once")
    if plot is not None:
        from kfac_artifacts.evaluate.plot import check_plottable

        check_plottable(plot, [model, *split, *split.values()])
    check_vectors(map(Path, split))
    length, prompt = columns.pop("max_length"), columns.pop("prompt")
    found_data = read_all(model, split, **columns)
    from kfac_artifacts.evaluate import MODES, evaluate, plot_evaluation
    from kfac_artifacts.sources import load_network

    network = load_network(model, output_map=output_map, device=device, dtype=dtype)
    tasks, accounts = load_tasks(network, found_data, length, prompt)
    tasks = with_heads(
        network,
        tasks,
        kind=head_kind,
        texts=texts_file,
        template=template,
        logit_scale=logit_scale,
        prompt=prompt,
    )
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
        about = {"read": accounts, "warnings": console.SPOKEN.said}
        console.print_json({**found.to_json(), **about})
    else:
        _print(found)


def split_pair(pair: str) -> tuple[str, str]:
    """Split ``TAU=DATA`` at the equals sign before which there is a task vector."""
    places = [i for i, character in enumerate(pair) if character == "="]
    splits = [(pair[:i], pair[i + 1 :]) for i in places if pair[:i] and pair[i + 1 :]]
    if not splits:
        raise click.UsageError(f"{pair!r} is not TAU=DATA")
    found = [(tau, data) for tau, data in splits if (Path(tau) / MANIFEST).is_file()]
    if len(found) > 1:
        found = [(tau, data) for tau, data in found if Path(data).exists()] or found
    if len(found) == 1:
        return found[0]
    tried = " or ".join(repr(tau) for tau, _ in found or splits)
    what = "is not one task vector but" if found else "has no task vector at"
    raise console.failure(f"{pair!r} {what} {tried} ({MANIFEST})", code=3)


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


def read_all(
    model: str,
    pairs: dict[str, str],
    *,
    text_columns: Sequence[str],
    image_columns: Sequence[str],
    label_columns: Sequence[str],
    **reading: Any,
) -> "dict[str, Data]":
    """Read the data of every task vector, each by the columns that are its own."""
    from kfac_artifacts.sources import check_model

    check_model(model)
    tasks = [(path, Path(path).name) for path in pairs]
    found = {}
    for (path, data), task in zip(pairs.items(), tasks, strict=True):
        own = partial(of_task, task=task, tasks=tasks)
        images, labels = own(image_columns), own(label_columns)
        if len(images) > 1 or len(labels) > 1:
            raise click.UsageError(f"several columns of images or labels for {path}")
        found[path] = read(
            data,
            text_columns=own(text_columns),
            image_column=images[0] if images else None,
            label_column=labels[0] if labels else "label",
            **reading,
        )
    return found


def load_tasks(
    network: "Network",
    data: "dict[str, Data]",
    max_length: int | None,
    prompt: str | None,
) -> "tuple[list[EvaluationTask], list[dict[str, Any]]]":
    """Load every task vector, encode its data with its classes, say what is used."""
    from kfac_artifacts.evaluate import EvaluationTask
    from kfac_artifacts.sources import encode_data
    from kfac_artifacts.task_vector import TaskVector

    names = [Path(path).name for path in data]
    tasks, accounts = [], []
    for (path, found), name in zip(data.items(), names, strict=True):
        vector = TaskVector.load(path)
        known = (
            found if vector.head is None else found.with_classes(vector.head.classes)
        )
        examples = encode_data(known, network, max_length=max_length, prompt=prompt)
        unique = name if names.count(name) == 1 else path
        tasks.append(EvaluationTask(unique, vector, examples))
        accounts.append(tell(examples, len(examples)))
    return tasks, accounts


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
