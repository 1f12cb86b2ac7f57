"""Protocols of ``kfac evaluate``: what is measured, and on what more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from kfac_artifacts.choices import PROTOCOLS
from kfac_cli.data import EncodeOptions, tell
from kfac_cli.groups import given, option
from kfac_cli.heads import HeadOptions
from kfac_cli.parameters import Share

if TYPE_CHECKING:
    from kfac_artifacts.evaluate import (
        ControlTask,
        Disentanglement,
        Evaluation,
        EvaluationTask,
        Negation,
    )
    from kfac_artifacts.network import LabelledExamples, Network
    from kfac_artifacts.progress import Advance
    from kfac_artifacts.sources import Data
    from kfac_artifacts.task_vector import Begin

    Result: TypeAlias = Evaluation | Negation | Disentanglement

CONTROL = "control"
ADDITION, UNION, NEGATION, DISENTANGLEMENT = PROTOCOLS
MEANINGLESS = {
    NEGATION: {"name": "--method"},
    DISENTANGLEMENT: {
        "name": "--method",
        "validation": "--validation",
        "validation_split": "--validation-split",
    },
}
"""Options that would change nothing, by protocol."""
OF_NEGATION = {
    "control": "--control",
    "control_validation": "--control-validation",
    "keep_control": "--keep-control",
}


@dataclass(frozen=True)
class ProtocolOptions:
    """What is measured."""

    protocol: str = option(
        "--protocol",
        type=click.Choice(PROTOCOLS),
        default=ADDITION,
        show_default=True,
        help="Add the task vectors; add them and classify among the classes of all "
        "tasks (union); subtract each (negation); or ask how much two of them change "
        "each other's answers (disentanglement).",
    )
    control: str | None = option(
        "--control",
        metavar="DATA",
        help="For negation: labelled data of what must not be forgotten.",
    )
    control_validation: str | None = option(
        "--control-validation",
        metavar="DATA",
        help="Others of them, to choose factors on. [default: those of --control, in "
        "the split of --validation-split]",
    )
    keep_control: float = option(
        "--keep-control",
        type=Share(),
        default="95%",
        show_default=True,
        help="Share of its accuracy on --control that the model must keep.",
    )

    def check(self, data: Mapping[str, str]) -> None:
        """Refuse what does not go with the protocol."""
        refused = dict(MEANINGLESS.get(self.protocol, {}))
        if self.protocol != NEGATION:
            refused |= OF_NEGATION
        for name, flag in refused.items():
            if given(name):
                raise click.UsageError(
                    f"{flag} does not go with --protocol {self.protocol}"
                )
        if self.protocol == NEGATION and self.control is None:
            raise click.UsageError("--protocol negation needs --control DATA")
        if self.control is not None and CONTROL in data:
            raise click.UsageError(
                f"a task vector at {CONTROL!r} is taken for --control; write "
                f"./{CONTROL}={data[CONTROL]}"
            )

    @property
    def tested(self) -> dict[str, str]:
        """Data of the control to report on, if there is one."""
        return {} if self.control is None else {CONTROL: self.control}

    def chosen_on(self, chosen: bool, split: str | None) -> dict[str, str]:
        """Data of the control to choose factors on, if any are chosen."""
        if self.control is None or not (chosen or self.control_validation):
            return {}
        if self.control_validation is None and split is None:
            raise click.UsageError(
                "factors are chosen on the control, too; give --control-validation"
            )
        if not chosen:
            raise click.UsageError(
                "factors are chosen on the tasks, too; give --validation of each"
            )
        return {CONTROL: self.control_validation or self.control}

    def load_control(
        self,
        network: "Network",
        data: "Data | None",
        held_out: "Data | None",
        head: HeadOptions,
        encoding: EncodeOptions,
    ) -> "tuple[ControlTask | None, list[dict[str, Any]]]":
        """Encode the control, make a head for its classes, say what is used."""
        from kfac_artifacts.evaluate import ControlTask

        if data is None:
            return None, []
        examples = encoding.encode(data, network)
        accounts = [tell(examples, len(examples))]
        others = None
        if held_out is not None:
            known = held_out.with_classes(examples.classes)
            others = encoding.encode(known, network)
            accounts.append(tell(others, len(others)))
        made = head.make(network, examples, prompt=encoding.prompt)
        name = Path(self.control or CONTROL).name
        return ControlTask(name, examples, made, self.keep_control, others), accounts


@dataclass(frozen=True, eq=False)
class Measured:
    """What is measured, loaded and checked."""

    network: "Network"
    tasks: "Sequence[EvaluationTask]"
    validation: "Sequence[LabelledExamples]"
    control: "ControlTask | None"
    alphas: tuple[float, ...]
    modes: tuple[str, ...]
    method: "Begin"
    batch_size: int

    @property
    def count(self) -> int:
        """How many examples are looked at; the control again for every task."""
        count = sum(len(task.examples) for task in self.tasks)
        count += sum(map(len, self.validation))
        if self.control is not None:
            others = self.control.validation or ()
            count += len(self.tasks) * (len(self.control.examples) + len(others))
        return count * len(self.modes)

    def run(self, protocol: str, progress: "Advance") -> "Result":
        """Measure it."""
        from kfac_artifacts.evaluate import (
            disentanglement,
            evaluate,
            negate,
            with_union_head,
        )

        common: dict[str, Any] = {
            "alphas": self.alphas,
            "modes": self.modes,
            "batch_size": self.batch_size,
            "progress": progress,
        }
        if protocol == DISENTANGLEMENT:
            return disentanglement(self.network, self.tasks, **common)
        common["validation"] = self.validation or None
        if self.control is not None:
            return negate(self.network, self.tasks, self.control, **common)
        tasks = self.tasks
        if protocol == UNION:
            tasks = with_union_head(self.network, tasks)
        return evaluate(self.network, tasks, method=self.method, **common)
