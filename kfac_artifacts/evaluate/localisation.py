"""Task localisation: what a task vector does to f on its own task and on others.

``‖J(x) τ‖²`` is a normalcy score of the example x: large where the task vector was
trained, small elsewhere if it was held back there (TAK, Figs. 5, 13 and 14). Of an
ordinary model it is ``‖f(x, θ0 + τ) - f(x, θ0)‖²``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.capture import require_independence
from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate.moved import Moved, batches, check_modes, put_back
from kfac_artifacts.evaluate.tasks import check_vector
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.task_vector import TaskVector

BINS = 40


@dataclass(frozen=True, eq=False)
class LocalisedVector:
    """Scores of one task vector, in one mode.

    Attributes:
        name: Name of its task.
        scores: Squared changes of f, one per example, by the name of the data; among
            them those of its own task.
    """

    name: str
    scores: Mapping[str, Float[Tensor, " n"]]

    @property
    def inside(self) -> Float[Tensor, " n"]:
        """Scores of the examples of its own task."""
        return self.scores[self.name]

    @property
    def outside(self) -> Float[Tensor, " m"]:
        """Scores of all others."""
        others = [s for name, s in self.scores.items() if name != self.name]
        return torch.cat(others)

    @property
    def auroc(self) -> float:
        """Of its own examples against all others."""
        return auroc(self.inside, self.outside)

    def histogram(self, bins: int = BINS) -> tuple[list[float], list[int], list[int]]:
        """Count scores in equal steps from 0 to the largest.

        Args:
            bins: How many steps.

        Returns:
            The ``bins + 1`` edges, and the counts inside and outside of the task.
        """
        top = max(self.inside.max().item(), self.outside.max().item()) or 1.0
        edges = torch.linspace(0.0, top, bins + 1, dtype=torch.float64)
        inside, outside = (
            torch.histogram(s.double(), edges).hist.long().tolist()
            for s in (self.inside, self.outside)
        )
        return edges.tolist(), inside, outside

    def to_json(self) -> dict[str, Json]:
        """Write everything but single scores as JSON."""
        edges, inside, outside = self.histogram()
        data: dict[str, Json] = {}
        for name, scores in self.scores.items():
            data[name] = {
                "examples": len(scores),
                "mean": scores.double().mean().item(),
                "median": scores.double().quantile(0.5).item(),
                "auroc": None if name == self.name else auroc(self.inside, scores),
            }
        counts: dict[str, Json] = {
            "edges": [*edges],
            "inside": [*inside],
            "outside": [*outside],
        }
        return {"auroc": self.auroc, "data": data, "histogram": counts}


@dataclass(frozen=True, eq=False)
class Localisation:
    """Scores of task vectors by mode.

    Attributes:
        model: Name of the model.
        modes: Every task vector's scores, by mode.
    """

    model: str
    modes: Mapping[str, tuple[LocalisedVector, ...]]

    def to_json(self) -> dict[str, Json]:
        """Write everything but single scores as JSON."""
        modes: dict[str, Json] = {
            mode: {"tasks": {each.name: each.to_json() for each in found}}
            for mode, found in self.modes.items()
        }
        return {"model": self.model, "modes": modes}


def auroc(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> float:
    """Give the chance that an example inside scores higher than one outside.

    The area under the curve of true against false positives; a tie counts half (Mann
    and Whitney). Not a number if either is empty.

    >>> auroc(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]))
    0.625

    Args:
        inside: Scores of N examples.
        outside: Scores of M others.

    Returns:
        From 0 to 1; 0.5 where scores tell nothing.
    """
    scores = torch.cat([inside, outside])
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts - 1) / 2  # equal scores share their mean rank
    n, m = len(inside), len(outside)
    if not n * m:
        return float("nan")
    above = ranks.double()[place[:n]].sum().item() - n * (n + 1) / 2
    return above / (n * m)


def localise(
    network: Network,
    vectors: Mapping[str, TaskVector],
    data: Mapping[str, Examples],
    *,
    modes: Sequence[str] = MODES,
    batch_size: int = 64,
    progress: Advance = unseen,
) -> Localisation:
    """Measure what every task vector does to f, on every example of all data.

    Args:
        network: The pretrained network.
        vectors: Task vectors by the name of their task; no head is needed.
        data: Examples by name, labelled or not: those that are called as a task vector
            are of its task, all others are not.
        modes: ``linear`` for ``‖J τ‖²``, ``plain`` for ``‖f(θ0 + τ) - f(θ0)‖²``.
        batch_size: Examples per forward pass.
        progress: Called with the number of examples just done, in every mode.

    Returns:
        Scores, histograms and AUROC.

    Raises:
        MismatchError: If a task vector is of another model or output map, or changes f
            to what is not finite.
        CoverageError: If f of an example depends on the others of its batch.
        SettingsError: If a task vector lacks data of its task or others, or a mode is
            unknown.
    """
    missing = sorted(vectors.keys() - data.keys())
    if not vectors or missing or len(data) < 2:
        raise SettingsError(
            "localisation needs data of the task of every task vector, and others; "
            f"found {len(vectors)} task vectors and data {', '.join(data)}"
        )
    check_modes(modes)
    for name, vector in vectors.items():
        check_vector(network, name, vector, data[name])
    for examples in data.values():
        require_independence(network, examples, range(len(examples)))
    found = {}
    for mode in modes:
        moved = Moved(network, [*vectors.values()], mode)
        rows = {d: _scores(moved, e, batch_size, progress) for d, e in data.items()}
        _require_finite(rows, [*vectors], mode)
        found[mode] = tuple(
            LocalisedVector(name, {d: scores[t] for d, scores in rows.items()})
            for t, name in enumerate(vectors)
        )
    return Localisation(network.id, found)


def _require_finite(
    rows: Mapping[str, Float[Tensor, "t n"]], names: Sequence[str], mode: str
) -> None:
    """Refuse scores that have no order."""
    for place, name in enumerate(names):
        for data, scores in rows.items():
            lost = int((~scores[place].isfinite()).sum())
            if lost:
                raise MismatchError(
                    f"{name} ({mode}) changes f to what is not finite for {lost} of "
                    f"{len(scores[place])} examples of {data}, which tells nothing of "
                    "where it belongs; leave it out, or train it at a lower rate"
                )


@torch.no_grad()
def _scores(
    moved: Moved, examples: Examples, batch_size: int, progress: Advance
) -> Float[Tensor, "t n"]:
    """Square what every task vector changes, example by example."""
    found, order = [], list[int]()
    for chosen in batches(examples, batch_size):
        changes = moved.changes(examples.batch(chosen))
        squares = [
            c.to(torch.promote_types(c.dtype, torch.float32)).square().sum(-1)
            for c in changes
        ]
        found.append(torch.stack(squares).cpu())
        order += chosen
        progress(len(chosen))
    return put_back(torch.cat(found, dim=1), order, dim=1)
