"""Tables and pictures of what ``kfac evaluate`` found, protocol by protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_artifacts.choices import PROTOCOLS
from kfac_cli.tables import print_table
from kfac_cli.units import number, percent

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import (
        Disentanglement,
        Evaluation,
        ModeScores,
        Negation,
        NegationScores,
    )


def show(protocol: str, found: Any) -> None:
    """Print what a protocol found."""
    printers: tuple[Callable[[Any], None], ...] = (
        print_addition,
        print_union,
        print_negation,
        print_disentanglement,
    )
    dict(zip(PROTOCOLS, printers, strict=True))[protocol](found)


def draw(protocol: str, found: Any, path: Path) -> None:
    """Draw what a protocol found."""
    from kfac_artifacts.evaluate import (
        plot_disentanglement,
        plot_evaluation,
        plot_negation,
    )

    plotters: tuple[Callable[[Any, Path], None], ...] = (
        plot_evaluation,
        plot_evaluation,
        plot_negation,
        plot_disentanglement,
    )
    dict(zip(PROTOCOLS, plotters, strict=True))[protocol](found, path)


def print_addition(evaluation: "Evaluation") -> None:
    """Print accuracies, and the sweep that a factor was chosen in."""
    for i, scores in enumerate(evaluation.modes):
        if i:
            click.echo()
        if evaluation.validation:
            _print_mode(scores, "alpha")
            click.echo("\nchosen on validation data:")
            _print_mode(evaluation.validation[i], "best alpha")
        else:
            _print_mode(scores, "best alpha" if len(scores.alphas) > 1 else "alpha")


def print_union(evaluation: "Evaluation") -> None:
    """Print the same among the classes of all tasks, and over all examples."""
    print_addition(evaluation)
    click.echo("\nover all examples, among the classes of all tasks, in %")
    rows = [
        [
            scores.mode,
            percent(scores.over_examples.pretrained),
            percent(scores.over_examples.individual),
            percent(scores.over_examples.merged[scores.best]),
        ]
        for scores in evaluation.modes
    ]
    print_table(["mode", "pretrained", "individual", "merged"], rows)


def print_negation(negation: "Negation") -> None:
    """Print what is left of every task and of the control."""
    for i, scores in enumerate(negation.modes):
        if i:
            click.echo()
        keeping = f"keeping {100 * negation.keep:g} % of {negation.control}"
        click.echo(f"{scores.mode}, {keeping}, in %")
        _print_negated(scores, negation)
        if negation.validation:
            click.echo("\nchosen on validation data:")
            _print_negated(negation.validation[i], negation)


def _print_negated(scores: "NegationScores", negation: "Negation") -> None:
    rows: list[list[Any]] = []
    for task in scores.tasks:
        best = task.best(negation.keep)
        for i, alpha in enumerate(task.alphas):
            several = len(task.alphas) > 1
            mark = "best" if several and i == best else ""
            rows.append(
                [
                    task.name,
                    alpha,
                    percent(task.pretrained),
                    percent(task.target[i]),
                    percent(task.control_pretrained),
                    percent(task.control[i]),
                    mark,
                ]
            )
    means = scores.means()
    if means is not None:
        before, control_before, after, control = map(percent, means)
        rows.append(["mean", "", before, after, control_before, control, ""])
    header = ["task", "alpha", "pretrained", "negated"]
    print_table([*header, "control, pretrained", "negated", "chosen"], rows)


def print_disentanglement(found: "Disentanglement") -> None:
    """Print errors where both factors are the same, and over the grid."""
    for i, mode in enumerate(found.modes):
        if i:
            click.echo()
        values = [value for row in mode.error for value in row]
        mean, most = sum(values) / len(values), max(values)
        click.echo(
            f"{mode.mode}, disentanglement error: mean {number(mean)}, largest "
            f"{number(most)} over {len(values)} pairs; where both factors are alpha:"
        )
        first, second = mode.disagreement
        rows = [
            [alpha, *(round(part[j][j], 3) for part in (first, second, mode.error))]
            for j, alpha in enumerate(mode.alphas)
        ]
        print_table(["alpha", *found.tasks, "error"], rows)


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
