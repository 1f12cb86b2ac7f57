"""What every method has that makes one task vector of several."""

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.choices import MERGES
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.task_vector.vector import TaskVector, joint_base


class Merging(ABC):
    """Several task vectors that become one, a parameter at a time.

    What a method needs to know of all parameters it finds out when the first change is
    asked for: by then it is known that the task vectors are of one model.

    Attributes:
        vectors: The task vectors.
        alphas: A factor each, which the task vector is multiplied by before anything
            else is done.

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

    def all_terms(self, name: str) -> list[Tensor]:
        """The scaled changes of a parameter by every task vector, zero if it stood.

        Args:
            name: Of the parameter.

        Returns:
            The changes.

        Raises:
            MismatchError: If one is not finite.
        """
        like = self.terms(name)[0]
        found = [
            alpha * vector.tensors[name]
            if name in vector.tensors
            else torch.zeros_like(like)
            for vector, alpha in zip(self.vectors, self.alphas, strict=True)
        ]
        if not all(bool(term.isfinite().all()) for term in found):
            raise MismatchError(f"{name} has changes that are not finite numbers")
        return found

    def wide_terms(self, name: str) -> list[Tensor]:
        """``all_terms`` in float64."""
        return [term.double() for term in self.all_terms(name)]

    def dtype(self, name: str) -> torch.dtype:
        """The number type of the merged change of a parameter."""
        types = (term.dtype for term in self.terms(name))
        return functools.reduce(torch.promote_types, types)

    def mean(self, name: str) -> Tensor:
        """The mean over all task vectors; one that did not move it counts as zero."""
        return functools.reduce(operator.add, self.terms(name)) / len(self.vectors)

    @abstractmethod
    def change(self, name: str) -> Tensor:
        """Give the merged change of a parameter, of its shape."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Parameters that get the mean, because the method says nothing of them."""
        return ()

    def describe(self) -> dict[str, Json]:
        """What a model that it was applied to says of it."""
        return {"method": type(self).__name__}


Begin: TypeAlias = Callable[[Sequence[TaskVector], Sequence[float]], Merging]
"""Begins to merge task vectors with a factor each."""
Method: TypeAlias = str | Begin
"""A name out of ``choices.MERGES``, a ``MergeMethod``, or a class of ``Merging``."""


@dataclass(frozen=True)
class MergeMethod(ABC):
    """A method with its settings: its fields are what may be chosen about it.

    Attributes:
        name: What it is called by the command, and by models that it made.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(
        self, vectors: Sequence[TaskVector], alphas: Sequence[float]
    ) -> Merging:
        """Begin to merge.

        Args:
            vectors: At least one task vector.
            alphas: One factor each.

        Returns:
            What gives every merged change.

        Raises:
            MismatchError: If something does not belong together.
            SettingsError: If a setting does not fit these task vectors.
        """

    def describe(self) -> dict[str, Json]:
        """Name the method, and its settings."""
        return {"method": self.name, "settings": asdict(self)}


def choose_method(name: str, **settings: Any) -> Begin:
    """Make the method of a name.

    Args:
        name: One of ``choices.MERGES``.
        settings: Its settings; those not given are as usual.

    Returns:
        The method.

    Raises:
        SettingsError: If there is none of that name, it has no such setting, or a
            setting is impossible.
    """
    kind = MERGES[name]
    for setting in sorted(settings.keys() - _settings_of(kind)):
        having = [n for n, other in MERGES.items() if setting in _settings_of(other)]
        raise SettingsError(
            f"{setting} does not go with the merge method {name}, but with "
            f"{', '.join(having) or 'none'}"
        )
    begin: Begin = kind(**settings) if issubclass(kind, MergeMethod) else kind
    return begin


def _settings_of(kind: type) -> set[str]:
    return {s.name for s in fields(kind)} if issubclass(kind, MergeMethod) else set()


def merging_by(
    method: Method, vectors: Sequence[TaskVector], alphas: Sequence[float]
) -> Merging:
    """Begin to merge task vectors.

    Args:
        method: A name out of ``choices.MERGES``, a method with its settings, or a class
            of ``Merging``.
        vectors: At least one task vector.
        alphas: One factor each.

    Returns:
        What gives every merged change.

    Raises:
        MismatchError: If there is no task vector, or the counts differ.
        SettingsError: If there is no such method.
    """
    begin = choose_method(method) if isinstance(method, str) else method
    return begin(vectors, alphas)


def merge_task_vectors(
    vectors: Sequence[TaskVector], alphas: Sequence[float], method: Method = "sum"
) -> TaskVector:
    """Merge task vectors of one base model; as a rule add them, ``Σ_t α_t τ_t``.

    Args:
        vectors: At least one task vector.
        alphas: One factor each; whatever the method, τ_t is multiplied by it first.
        method: A name out of ``choices.MERGES``, a method with its settings such as
            ``Ties(keep=0.1)``, or a class of ``Merging``.

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
