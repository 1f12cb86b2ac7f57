"""Heads: classifiers for the classes of some data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import HEADS
from kfac_cli.groups import given, option
from kfac_cli.parameters import POSITIVE

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import EvaluationTask
    from kfac_artifacts.network import LabelledExamples, Network
    from kfac_artifacts.task_vector import Head

MADE_OF = {
    None: "class texts",
    "texts": "class texts",
    "prototypes": "means of the very examples that are scored: accuracies are too high",
    "linear": "a fit to the very examples that are scored: accuracies are too high",
    "own": "the classifier that the model has itself",
}


@dataclass(frozen=True)
class HeadOptions:
    """What a head is made of."""

    head_kind: str | None = option(
        "--head",
        "head_kind",
        type=click.Choice(HEADS),
        help="Classify by encoded class texts, by class means of the examples, by a "
        "linear layer that is fitted to them by logistic regression, or by the "
        "classifier that MODEL has itself. "
        "[default: texts, if the names of the classes are words]",
    )
    class_texts: Path | None = option(
        "--class-texts",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="A text per class: json (class to text, or a list) or one per line, "
        "in the order of the classes. [default: their names]",
    )
    template: str = option(
        "--template",
        default="{}",
        show_default=True,
        help="Text around a class name, such as 'a photo of a {}'.",
    )
    logit_scale: float | None = option(
        "--logit-scale",
        type=POSITIVE,
        help="Factor from cosines to logits. [default: the model's own, or 20, or what "
        "fits the examples if that is more than twice as large]",
    )

    def make(
        self,
        network: "Network",
        examples: "LabelledExamples",
        *,
        prompt: str | None,
        indices: Sequence[int] | None = None,
    ) -> "Head":
        """Make a head for the classes of some examples."""
        from kfac_artifacts.sources import make_head

        return make_head(
            network,
            examples,
            self.head_kind,
            texts=self.class_texts,
            template=self.template,
            logit_scale=self.logit_scale,
            indices=indices,
            prompt=prompt,
        )

    def complete(
        self,
        network: "Network",
        tasks: "Sequence[EvaluationTask]",
        *,
        prompt: str | None,
    ) -> "list[EvaluationTask]":
        """Give a head to the tasks of which the task vector has none, and say so."""
        if all(task.vector.head is not None for task in tasks):
            self._refuse_given()
        found = []
        for task in tasks:
            head = None
            if task.vector.head is None:
                head = self.make(network, task.examples, prompt=prompt)
                made_of = MADE_OF[self.head_kind]
                click.echo(f"{task.name} has no head; made of {made_of}", err=True)
            found.append(replace(task, head=head))
        return found

    def _refuse_given(self) -> None:
        """Refuse options that would change nothing."""
        for each in click.get_current_context().command.params:
            if each.name in vars(self) and given(each.name):
                raise click.UsageError(
                    f"{each.opts[0]} is for task vectors without a head; these have one"
                )
