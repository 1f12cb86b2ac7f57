"""One name for a parameter, whether a network without its head was trained or with it.

A parameter has a longer name in the class with the head, ``model.layers.0.…`` for
``layers.0.…`` (spec/parameters.md, section 2). Task vectors of both can be added.
"""

from collections.abc import Sequence
from dataclasses import replace

from kfac_artifacts.artifact import BaseModel
from kfac_artifacts.sources.meta_model import build_module
from kfac_artifacts.sources.model_heads import head_of, saved_as
from kfac_artifacts.sources.models import Location, read_config
from kfac_artifacts.task_vector import TaskVector


def named_alike(location: Location, vectors: Sequence[TaskVector]) -> list[TaskVector]:
    """Give task vectors the names of the class with its head, if one of them has such.

    Args:
        location: The model.
        vectors: Task vectors of it.

    Returns:
        The task vectors; those that have to be renamed as copies.
    """
    head = head_of(saved_as(read_config(location)))
    names = {name for vector in vectors for name in vector.tensors}
    short = dict(build_module(location).named_parameters()).keys()
    if head is None or names <= short:
        return list(vectors)
    whole = build_module(location, head.output_maps[0])
    known = dict(whole.named_parameters()).keys()
    if not names & (known - short):
        return list(vectors)
    longer = {name: f"{whole.base_model_prefix}.{name}" for name in names - known}
    longer = {name: new for name, new in longer.items() if new in known}
    return [_renamed(vector, longer) for vector in vectors]


def _renamed(vector: TaskVector, longer: dict[str, str]) -> TaskVector:
    if not longer.keys() & vector.tensors.keys():
        return vector
    base = vector.base
    infos = {longer.get(n, n): info for n, info in base.parameters.items()}
    return replace(
        vector,
        tensors={longer.get(n, n): change for n, change in vector.tensors.items()},
        base=BaseModel(base.id, base.revision, infos, base.derived),
    )
