"""What is odd about curvature and the data to be trained on, and is not refused."""

from collections.abc import Iterator

from kfac_artifacts.artifact import (
    Artifact,
    DataInfo,
    preprocessing_differences,
    task_names,
)
from kfac_artifacts.chosen import chosen_for
from kfac_artifacts.network import Examples


def doubts(curvature: Artifact, examples: Examples) -> list[str]:
    """Find what a person should know before training.

    Args:
        curvature: Curvature of the other tasks.
        examples: The data to be trained on.

    Returns:
        Sentences: that the task's own data are in the curvature, and that its examples
        were made into batches in another way than these are.
    """
    return [*_own_tasks(curvature, examples), *_other_inputs(curvature, examples)]


def _own_tasks(curvature: Artifact, examples: Examples) -> Iterator[str]:
    info = examples.info([0])
    sources = curvature.provenance.sources
    for name, source in zip(task_names(sources), sources, strict=True):
        if chosen_for(source, examples):
            about = "was computed from the data to be trained on"
        elif _identity(source.data) == _identity(info):
            about = "has the name and the size of the data to be trained on"
        else:
            continue
        yield (
            f"{name}, a task of the curvature, {about}: the penalty would hold back "
            "what is to be learned; take it out with --exclude-own (merge with exclude)"
        )


def _other_inputs(curvature: Artifact, examples: Examples) -> Iterator[str]:
    ours = examples.info([0]).preprocessing
    sources = curvature.provenance.sources
    found: dict[str, list[str]] = {}
    for name, source in zip(task_names(sources), sources, strict=True):
        differences = preprocessing_differences(source.data.preprocessing, ours)
        if differences:
            found.setdefault("; ".join(differences), []).append(name)
    for what, names in found.items():
        yield (
            f"the curvature of {', '.join(names)} was computed from other inputs than "
            f"those of this training: {what}"
        )


def _identity(data: DataInfo) -> tuple[str, str | None, str | None, int]:
    return data.id, data.config, data.split, data.size
