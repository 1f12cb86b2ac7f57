"""The disentanglement error of two task vectors, over a grid of their factors."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from kfac_artifacts.artifact import Json
from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.evaluate.moved import Factors, Moved, answers, check_modes
from kfac_artifacts.evaluate.tasks import EvaluationTask, heads_for
from kfac_artifacts.network import Network
from kfac_artifacts.progress import Advance, unseen


@dataclass(frozen=True)
class DisentanglementMap:
    """Errors of one mode, linearised or plain.

    Attributes:
        mode: ``linear`` or ``plain``.
        alphas: The factors of both task vectors.
        disagreement: For either task, and every α1 (rows) and α2 (columns), the
            fraction of its examples that the model with both task vectors answers
            otherwise than the model with its own alone, which has the same factor.
    """

    mode: str
    alphas: tuple[float, ...]
    disagreement: tuple[tuple[tuple[float, ...], ...], ...]

    @property
    def error(self) -> tuple[tuple[float, ...], ...]:
        """``ξ(α1, α2)``, rows by α1: the sum over both tasks, from 0 to 2."""
        first, second = self.disagreement
        return tuple(
            tuple(a + b for a, b in zip(*rows, strict=True))
            for rows in zip(first, second, strict=True)
        )


@dataclass(frozen=True)
class Disentanglement:
    """Disentanglement errors of two task vectors, by mode.

    Attributes:
        model: Name of the model.
        tasks: Names of both tasks, that of α1 first.
        examples: Number of examples of both.
        modes: The errors.
    """

    model: str
    tasks: tuple[str, ...]
    examples: tuple[int, ...]
    modes: tuple[DisentanglementMap, ...]

    def to_json(self) -> dict[str, Json]:
        """Write everything as JSON; rows are by α1."""
        return {
            "model": self.model,
            "tasks": [*self.tasks],
            "examples": [*self.examples],
            "modes": {
                found.mode: {
                    "alphas": [*found.alphas],
                    "error": [[*row] for row in found.error],
                    "disagreement": {
                        name: [[*row] for row in rows]
                        for name, rows in zip(
                            self.tasks, found.disagreement, strict=True
                        )
                    },
                }
                for found in self.modes
            },
        }


def disentanglement(
    network: Network,
    tasks: Sequence[EvaluationTask],
    *,
    alphas: Sequence[float],
    modes: Sequence[str] = MODES,
    batch_size: int = 64,
    progress: Advance = unseen,
) -> Disentanglement:
    """Measure how much two task vectors change one another's answers (TAK, Eq. 19).

    ``ξ(α1, α2) = Σ_t E_{x of task t} [f(x; θ0 + α_t τ_t) ≠ f(x; θ0 + α1 τ1 + α2 τ2)]``,
    f being the class that is answered; it is a sum, not a mean (Ortiz-Jimenez et al.
    2023). Labels play no part. Linearised, the grid costs as much as one point of it.

    Args:
        network: The pretrained network.
        tasks: Two task vectors, each with examples of its task.
        alphas: Factors of either.
        modes: ``linear``, ``plain`` or both.
        batch_size: Examples per forward pass.
        progress: Called with the number of examples just done, in every mode.

    Returns:
        ξ at every pair of factors.

    Raises:
        MismatchError: If a task vector is of another model or output map, or has no
            head.
        CoverageError: If f of an example depends on the others of its batch.
        SettingsError: If there are not two tasks, no α or one twice, or a mode is
            unknown.
    """
    if len(tasks) != 2 or not alphas or len(set(alphas)) < len(alphas):
        raise SettingsError(
            "the disentanglement error is of two task vectors, at factors that each "
            f"occur once; found {len(tasks)} and {len(alphas)} factors, "
            f"{len(set(alphas))} different"
        )
    check_modes(modes)
    heads = heads_for(network, tasks)
    pairs = list(itertools.product(alphas, alphas))
    found = []
    for mode in modes:
        moved = Moved(network, [task.vector for task in tasks], mode)
        rates = []
        for t, (task, head) in enumerate(zip(tasks, heads, strict=True)):
            alone = [_alone(pair, t) for pair in pairs]
            needed = list(dict.fromkeys([*alone, *pairs]))
            rows = answers(moved, needed, task.examples, head, batch_size, progress)
            given = dict(zip(needed, rows, strict=True))
            unlike = [given[a] != given[p] for a, p in zip(alone, pairs, strict=True)]
            rates.append(_square([each.double().mean().item() for each in unlike]))
        found.append(DisentanglementMap(mode, tuple(alphas), tuple(rates)))
    names = tuple(task.name for task in tasks)
    counts = tuple(len(task.examples) for task in tasks)
    return Disentanglement(network.id, names, counts, tuple(found))


def _alone(pair: Factors, task: int) -> Factors:
    """Take the factor of one task, and 0 for the other."""
    return tuple(alpha if t == task else 0.0 for t, alpha in enumerate(pair))


def _square(values: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Cut the values of a square grid into its rows."""
    side = math.isqrt(len(values))
    return tuple(
        tuple(values[start : start + side]) for start in range(0, len(values), side)
    )
