"""What every method has that makes one task vector of several."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.choices import MERGES
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.task_vector.vector import TaskVector, joint_base


class Merging(ABC):
    """Several task vectors that become one, a parameter at a time.

    What a method needs to know of all parameters it finds out when it is made.

    Attributes:
        vectors: The task vectors.
        alphas: A factor each.

    Raises:
        MismatchError: If there is no task vector, or the counts differ.
    """

    def __init__(self, vectors: Sequence[TaskVector], alphas: Sequence[float]) -> None:
        if not vectors or len(vectors) != len(alphas):
            raise MismatchError(
                f"cannot add {len(vectors)} task vectors with {len(alphas)} factors; "
                "give at least one task vector, and one factor for each"
            )
        self.vectors = tuple(vectors)
        self.alphas = tuple(alphas)

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter that one of them moved."""
        return tuple(dict.fromkeys(n for v in self.vectors for n in v.tensors))

    def terms(self, name: str) -> list[Tensor]:
        """The scaled changes of a parameter by those task vectors that moved it."""
        return [
            alpha * vector.tensors[name]
            for vector, alpha in zip(self.vectors, self.alphas, strict=True)
            if name in vector.tensors
        ]

    @abstractmethod
    def change(self, name: str) -> Tensor:
        """Give the merged change of a parameter, of its shape."""

    def describe(self) -> dict[str, Json]:
        """What a model that it was applied to says of it."""
        return {"method": type(self).__name__}


Method: TypeAlias = str | type[Merging]


def merging_by(
    method: Method, vectors: Sequence[TaskVector], alphas: Sequence[float]
) -> Merging:
    """Begin to merge task vectors.

    Args:
        method: A name out of ``choices.MERGES``, or a class.
        vectors: At least one task vector.
        alphas: One factor each.

    Returns:
        What gives every merged change.

    Raises:
        MismatchError: If there is no task vector, or the counts differ.
        SettingsError: If there is no such method.
    """
    kind = MERGES[method] if isinstance(method, str) else method
    return kind(vectors, alphas)


def merge_task_vectors(
    vectors: Sequence[TaskVector], alphas: Sequence[float], method: Method = "sum"
) -> TaskVector:
    """Merge task vectors of one base model; as a rule add them, ``Σ_t α_t τ_t``.

    Args:
        vectors: At least one task vector.
        alphas: One factor each.
        method: A name out of ``choices.MERGES``, or a class.

    Returns:
        One task vector, without head, settings and metrics.

    Raises:
        MismatchError: If there is none, if the counts differ, or the base models do.
        SettingsError: If there is no such method.
    """
    merging = merging_by(method, vectors, alphas)
    base = functools.reduce(joint_base, (vector.base for vector in vectors))
    output_map, *others = (vector.output_map for vector in vectors)
    return TaskVector(
        {name: merging.change(name) for name in merging.names},
        base,
        output_map if all(other == output_map for other in others) else None,
    )
