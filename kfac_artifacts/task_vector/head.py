"""The frozen classifiers on top of the output map."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import MismatchError, listed
from kfac_artifacts.network import LabelledExamples


class Head(ABC):
    """A classifier that stays as it is while the network moves.

    Attributes:
        classes: Name of every class, in the order of the logits.
    """

    classes: tuple[str, ...]

    @abstractmethod
    def logits(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """Classify outputs of f."""

    @staticmethod
    def answers(logits: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
        """Choose a class by its logits.

        Args:
            logits: Those of every example.

        Returns:
            The row of the most probable class; -1 where a logit is not finite, as the
            largest of NaN is nobody's answer, and would be right now and then.
        """
        return logits.argmax(-1).where(logits.isfinite().all(-1), -1)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers by name, as they are stored; the first has C columns."""

    @abstractmethod
    def describe(self) -> dict[str, Json]:
        """What the settings of a task vector say of it beside its hash."""

    @property
    def dim(self) -> int:
        """How many outputs of f it takes: C."""
        return next(iter(self.tensors().values())).shape[-1]

    def targets(self, examples: LabelledExamples) -> Tensor:
        """Give the row of every example's class, matched by the name of the class.

        Args:
            examples: Labelled examples; they may lack some of the classes.

        Returns:
            One index into ``classes`` per example.

        Raises:
            MismatchError: If examples have a class that the head does not know.
        """
        rows = {name: i for i, name in enumerate(self.classes)}
        used = {examples.classes[label] for label in set(examples.labels)}
        unknown = sorted(used - rows.keys())
        if unknown:
            raise MismatchError(
                f"the data have classes {listed(unknown, 10, repr)} that the head does "
                f"not know; its classes are {listed(self.classes, 10, repr)}"
            )
        labels = [rows[examples.classes[label]] for label in examples.labels]
        return torch.tensor(labels, dtype=torch.long)

    def _check_classes(self, rows: int) -> None:
        if len(self.classes) != rows or rows < 2:
            raise MismatchError(
                f"a head needs one row per class and at least two classes; found "
                f"{rows} rows, {len(self.classes)} classes"
            )
        if len(set(self.classes)) != rows:
            raise MismatchError("a head has two classes of the same name; rename one")

    def _check_features(self, features: Tensor) -> None:
        if features.shape[-1] != self.dim:
            raise MismatchError(
                f"the head was made for outputs of size {self.dim}, the network's have "
                f"{features.shape[-1]}; is it another model or another output map?"
            )


@dataclass(frozen=True, eq=False)
class ClassifierHead(Head):
    """Class embeddings; the logits are scaled cosines with them.

    Attributes:
        embeddings: One row per class, of any length: only its direction counts.
        classes: Name of every class, in the order of the rows.
        logit_scale: Factor from cosines to logits.
    """

    embeddings: Float[Tensor, "k c"]
    classes: tuple[str, ...]
    logit_scale: float

    def __repr__(self) -> str:
        names = ", ".join(self.classes)
        return f"ClassifierHead({len(self.classes)} classes: {names:.60})"

    def __post_init__(self) -> None:
        self._check_classes(len(self.embeddings))

    @override
    def logits(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        self._check_features(features)
        rows = normalize(self.embeddings.to(features), dim=-1)
        return self.logit_scale * normalize(features, dim=-1) @ rows.mT

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"embeddings": self.embeddings}

    @override
    def describe(self) -> dict[str, Json]:
        return {"logit_scale": self.logit_scale}


@dataclass(frozen=True, eq=False)
class LinearHead(Head):
    """A linear layer: the logits are ``W f + b``.

    Attributes:
        weight: W, one row per class.
        bias: b, one entry per class.
        classes: Name of every class, in the order of the rows.
    """

    weight: Float[Tensor, "k c"]
    bias: Float[Tensor, " _"]
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        names = ", ".join(self.classes)
        return f"LinearHead({len(self.classes)} classes: {names:.60})"

    def __post_init__(self) -> None:
        self._check_classes(len(self.weight))
        if self.bias.shape != self.weight.shape[:1]:
            raise MismatchError(
                f"the bias of a head has an entry per class, {len(self.weight)}; found "
                f"{[*self.bias.shape]}"
            )

    @override
    def logits(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        self._check_features(features)
        return features @ self.weight.to(features).mT + self.bias.to(features)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias}

    @override
    def describe(self) -> dict[str, Json]:
        return {"head": "linear"}
