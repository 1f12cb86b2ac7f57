"""The frozen classifier on top of the output map."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from kfac_artifacts.errors import MismatchError, listed
from kfac_artifacts.network import LabelledExamples


@dataclass(frozen=True, eq=False)
class ClassifierHead:
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
        if len(self.classes) != len(self.embeddings) or len(self.classes) < 2:
            raise MismatchError(
                f"a head needs one embedding per class and at least two classes; found "
                f"{len(self.embeddings)} embeddings, {len(self.classes)} classes"
            )
        if len(set(self.classes)) != len(self.classes):
            raise MismatchError("a head has two classes of the same name; rename one")

    def logits(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """Classify outputs of f: the logit scale times the cosines."""
        if features.shape[-1] != self.embeddings.shape[-1]:
            raise MismatchError(
                f"the head was made for outputs of size {self.embeddings.shape[-1]}, "
                f"the network's have {features.shape[-1]}; is it another model or "
                "another output map?"
            )
        rows = normalize(self.embeddings.to(features), dim=-1)
        return self.logit_scale * normalize(features, dim=-1) @ rows.mT

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
