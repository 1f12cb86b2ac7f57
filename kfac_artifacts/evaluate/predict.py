"""Classes of examples that nobody has labelled."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.capture import require_independence
from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate.moved import Moved, batches, put_back
from kfac_artifacts.evaluate.tasks import check_vector
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.task_vector import (
    Head,
    Method,
    TaskVector,
    merge_task_vectors,
)


@dataclass(frozen=True, eq=False)
class Predictions:
    """The class of every example.

    Attributes:
        classes: Names of the classes, in the order of the columns.
        probabilities: Of every class for every example; every row sums to 1. They are
            what training made of them, and calibrated by nobody.
        mode: ``linear`` (``f + J τ``) or ``plain`` (``f(θ0 + τ)``).
    """

    classes: tuple[str, ...]
    probabilities: Float[Tensor, "n k"]
    mode: str

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.probabilities)

    @property
    def labels(self) -> list[str]:
        """The most probable class of every example; the first of several."""
        return [self.classes[i] for i in self.probabilities.argmax(-1).tolist()]

    @property
    def confidences(self) -> list[float]:
        """Its probability."""
        return [float(p) for p in self.probabilities.amax(-1)]


def trained_mode(vectors: Sequence[TaskVector]) -> str:
    """Find the mode that task vectors were trained in.

    Args:
        vectors: Task vectors.

    Returns:
        ``linear`` if all of them were trained linearised, as they are unless their
        settings say something else; ``plain`` otherwise, or if there is none.
    """
    modes = {str(v.settings.get("mode", "linear")) for v in vectors}
    return "linear" if modes == {"linear"} else "plain"


@torch.no_grad()
def predict(  # noqa: PLR0913 - as many arguments as there are choices
    network: Network,
    examples: Examples,
    vectors: Sequence[TaskVector] = (),
    head: Head | None = None,
    *,
    alphas: Sequence[float] | None = None,
    method: Method = "sum",
    mode: str | None = None,
    batch_size: int = 64,
    progress: Advance = unseen,
) -> Predictions:
    """Classify examples by a network with task vectors added to it.

    Args:
        network: The pretrained network, or one that ``apply`` wrote, without vectors.
        examples: The examples; they need no labels.
        vectors: Task vectors to add.
        head: What to classify with; None for the first that a task vector has.
        alphas: Factor of each task vector; None for 1.
        method: How they are merged, as of ``evaluate``.
        mode: ``linear``, ``plain``, or None for that of ``trained_mode``.
        batch_size: Examples per forward pass; it changes nothing but speed and memory.
        progress: Called with the number of examples just done.

    Returns:
        The class of every example, with its probability.

    Raises:
        MismatchError: If a task vector is of another model or output map, there is no
            head, or it gives logits that are not finite.
        CoverageError: If f of an example depends on the others of its batch.
        SettingsError: If the mode is unknown, or the factors are not one for each task
            vector.
    """
    mode = trained_mode(vectors) if mode is None else mode
    factors = [1.0] * len(vectors) if alphas is None else [*alphas]
    if mode not in MODES or len(factors) != len(vectors):
        raise SettingsError(
            f"predicting needs a mode out of {', '.join(MODES)} and a factor for each "
            f"of {len(vectors)} task vectors; found {mode!r} and {len(factors)} factors"
        )
    for i, vector in enumerate(vectors, 1):
        check_vector(network, f"task vector {i}", vector, examples)
    require_independence(network, examples, range(len(examples)))
    heads = [head, *(vector.head for vector in vectors)]
    found = next((each for each in heads if each is not None), None)
    if found is None:
        raise MismatchError(
            f"none of the {len(vectors)} task vectors has a head to classify with; "
            "give one (make_head makes it of class texts or labelled examples)"
        )
    total = [merge_task_vectors(vectors, factors, method)] if vectors else []
    moved, whole = Moved(network, total, mode), (1.0,) * len(total)
    rows, order = [], list[int]()
    for chosen in batches(examples, batch_size):
        (output,) = moved.outputs(examples.batch(chosen), [whole])
        probabilities = found.logits(output).float().softmax(-1).cpu()
        if not bool(probabilities.isfinite().all()):
            raise MismatchError(
                "the logits of some examples are not finite, so no class is the most "
                "probable; try --dtype float32 (dtype=), or look at the head and at "
                "what the task vectors do to the model"
            )
        rows.append(probabilities)
        order += chosen
        progress(len(chosen))
    none = torch.empty(0, len(found.classes))
    probabilities = put_back(torch.cat([none, *rows]), order, dim=0)
    return Predictions(found.classes, probabilities, mode)
