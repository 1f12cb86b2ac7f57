"""Task vectors with data of their tasks, and what makes them fit to be measured."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kfac_artifacts.artifact import NamedConfig, preprocessing_differences
from kfac_artifacts.capture import fingerprint
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.network import Examples, LabelledExamples, Network
from kfac_artifacts.task_vector import Head, TaskVector

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EvaluationTask:
    """A task vector with labelled examples of its task.

    Attributes:
        name: Name of the task.
        vector: Its task vector.
        examples: Labelled examples, best held out from training.
        head: What to classify with; None for the head of the task vector.
    """

    name: str
    vector: TaskVector
    examples: LabelledExamples
    head: Head | None = None


def head_for(network: Network, task: EvaluationTask) -> Head:
    """Check that a task can be measured; give what classifies its examples.

    Args:
        network: The pretrained network.
        task: The task.

    Returns:
        The head of the task, else that of the task vector.

    Raises:
        MismatchError: If its task vector is of another model or output map, or there
            is no head.
    """
    check_vector(network, task.name, task.vector, task.examples)
    head = task.head or task.vector.head
    if head is None:
        raise MismatchError(
            f"{task.name} has no head to classify with; give one (make_head makes it "
            "for the classes of the examples)"
        )
    return head


def heads_for(network: Network, tasks: Sequence[EvaluationTask]) -> list[Head]:
    """Check that tasks can be measured together; give what classifies their examples.

    Args:
        network: The pretrained network.
        tasks: The tasks.

    Returns:
        The head of every task.

    Raises:
        MismatchError: As of ``head_for``, or if two are called the same.
    """
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise MismatchError(
            f"two of {len(names)} tasks are called {twice}, so that one would stand "
            "for the other; give each a name of its own"
        )
    return [head_for(network, task) for task in tasks]


def check_vector(
    network: Network, name: str, vector: TaskVector, examples: Examples
) -> None:
    """Refuse a task vector of another model or output map; warn of other inputs.

    Args:
        network: The pretrained network.
        name: What to call the task vector.
        vector: The task vector.
        examples: What it is used on.

    Raises:
        MismatchError: If it is of another model or output map.
    """
    vector.check_base(network)
    if vector.output_map is not None and vector.output_map != network.output_map.info:
        raise MismatchError(
            f"{name} was trained for the output map {vector.output_map}, the "
            f"network's is {network.output_map.info}; load the network with that one"
        )
    trained: Any = vector.settings.get("data")
    recorded = trained.get("preprocessing") if isinstance(trained, dict) else None
    if not (isinstance(recorded, dict) and {"name", "configuration"} <= set(recorded)):
        return  # not trained here
    theirs = NamedConfig(recorded["name"], recorded["configuration"])
    differences = preprocessing_differences(theirs, examples.info([0]).preprocessing)
    if differences:
        logger.warning(
            "%s was trained on other inputs than it is used on: %s",
            name,
            "; ".join(differences),
        )


def require_other_data(
    names: Sequence[str],
    reported: Sequence[Examples],
    validation: Sequence[Examples],
) -> None:
    """Refuse to choose a factor on what is reported.

    Args:
        names: What the tasks are called.
        reported: Examples of every task that are reported on.
        validation: Examples of every task that a factor is chosen on.

    Raises:
        MismatchError: If some are missing, or one set holds all of the other, in
            whatever order.
    """
    if len(reported) != len(validation):
        raise MismatchError(
            f"there are {len(reported)} tasks, and validation data for "
            f"{len(validation)}; give some for every task"
        )
    for name, examples, others in zip(names, reported, validation, strict=True):
        own, chosen_on = _fingerprints(examples), _fingerprints(others)
        if own <= chosen_on or chosen_on <= own:
            raise MismatchError(
                f"{name} would be reported on the very data that the factor is chosen "
                "on, or all of one are among the other; give others for validation"
            )


def _fingerprints(examples: Examples) -> set[str]:
    return {fingerprint(examples.batch([i])) for i in range(len(examples))}
