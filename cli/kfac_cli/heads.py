"""Heads for task vectors that were saved without one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import EvaluationTask
    from kfac_artifacts.network import Network

OPTIONS = frozenset({"head_kind", "texts_file", "template", "logit_scale"})


def with_heads(
    network: "Network", tasks: "Sequence[EvaluationTask]", **head: Any
) -> "list[EvaluationTask]":
    """Give tasks a head where their task vector has none, and say so.

    Args:
        network: The pretrained network.
        tasks: Task vectors with their data.
        head: Options of ``make_head``.

    Returns:
        The same tasks, all with a head.

    Raises:
        UsageError: If options ask for a head and every task vector has its own.
    """
    from kfac_artifacts.sources import make_head

    if all(task.vector.head is not None for task in tasks):
        _refuse_options()
    found = []
    for task in tasks:
        made = None
        if task.vector.head is None:
            made = make_head(network, task.examples, **head)
            _say_made(task.name, head["kind"])
        found.append(replace(task, head=made))
    return found


def _say_made(name: str, kind: str | None) -> None:
    what = "class texts"
    if kind == "prototypes":
        what = "means of the very examples that are scored: accuracies are too high"
    click.echo(f"{name} has no head; made of {what}", err=True)


def _refuse_options() -> None:
    """Refuse options that would change nothing."""
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name in OPTIONS and source == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option.opts[0]} is for task vectors without a head; these have one"
            )
