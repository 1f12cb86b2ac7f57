"""A network moved along task vectors by any factors, linearised or as ordinary model.

Linearised, the outputs are linear in the factors, ``f(x, θ0) + Σ_t α_t J(x) τ_t``: one
forward-mode pass per task vector serves every combination of them. As an ordinary
model, ``f(x, θ0 + Σ_t α_t τ_t)``, every combination takes a forward pass.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kfac_artifacts.capture import require_independence
from kfac_artifacts.choices import MODES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.lengths import LongestFirst
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Batch, Examples, Network
from kfac_artifacts.progress import Advance
from kfac_artifacts.task_vector import Head, TaskVector

logger = logging.getLogger(__name__)
Factors: TypeAlias = tuple[float, ...]
"""One factor for every task vector."""


class Moved:
    """A network with task vectors that it may be moved along.

    Args:
        network: The pretrained network; it is left as it is.
        vectors: Task vectors of it.
        mode: ``linear`` or ``plain``.
    """

    def __init__(
        self, network: Network, vectors: Sequence[TaskVector], mode: str
    ) -> None:
        self.network, self.mode = network, mode
        self.vectors = [
            {name: t.to(network.device) for name, t in vector.tensors.items()}
            for vector in vectors
        ]

    def outputs(
        self, batch: Batch, combinations: Sequence[Factors]
    ) -> Iterator[Float[Tensor, "n c"]]:
        """Evaluate f of a batch for every combination of factors, one by one."""
        if self.mode == "plain":
            yield from (self._plain(batch, factors) for factors in combinations)
            return
        used = [t for t in range(len(self.vectors)) if any(c[t] for c in combinations)]
        if not used:
            yield from [self.network(batch)] * len(combinations)
            return
        tangents = [jvp(self.network, self.vectors[t], batch) for t in used]
        for factors in combinations:
            output = tangents[0][0]
            for t, (_, change) in zip(used, tangents, strict=True):
                output = output + factors[t] * change if factors[t] else output
            yield output

    def changes(self, batch: Batch) -> Iterator[Float[Tensor, "n c"]]:
        """Evaluate what each task vector alone does to f: ``J τ``, or the difference.

        Each is exact up to rounding of its own size: nothing is added to f first where
        the network is linearised.
        """
        if self.mode == "linear":
            yield from (jvp(self.network, tau, batch)[1] for tau in self.vectors)
            return
        before = self.network(batch)
        for t in range(len(self.vectors)):
            alone = tuple(float(t == other) for other in range(len(self.vectors)))
            yield self._plain(batch, alone) - before

    def _plain(self, batch: Batch, factors: Factors) -> Tensor:
        total: dict[str, Tensor] = {}
        for alpha, tau in zip(factors, self.vectors, strict=True):
            for name, change in tau.items() if alpha else ():
                scaled = alpha * change
                total[name] = total[name] + scaled if name in total else scaled
        return self.network.moved(total, batch)


@torch.no_grad()
def answers(
    moved: Moved,
    combinations: Sequence[Factors],
    examples: Examples,
    head: Head,
    batch_size: int,
    progress: Advance,
) -> Int[Tensor, "k n"]:
    """Classify every example for every combination of factors, in one look at them.

    Args:
        moved: The network with its task vectors.
        combinations: K combinations of factors, one factor per task vector.
        examples: N examples.
        head: What to classify with.
        batch_size: Examples per forward pass.
        progress: Called with the number of examples just done.

    Returns:
        The class that is answered, a row of the head; -1 where its logits are not
        finite, of which a warning says how many there are.

    Raises:
        CoverageError: If f of an example depends on the others of its batch.
    """
    require_independence(moved.network, examples, range(len(examples)))
    found, order = [], list[int]()
    for chosen in batches(examples, batch_size):
        outputs = moved.outputs(examples.batch(chosen), combinations)
        found.append(torch.stack([head.answers(head.logits(f)).cpu() for f in outputs]))
        order += chosen
        progress(len(chosen))
    given = put_back(torch.cat(found, dim=1), order, dim=1)
    none = int((given < 0).sum(1).max())
    if none:
        logger.warning(
            "the logits of %d of %d examples are not finite, which counts as wrong",
            none,
            len(examples),
        )
    return given


def batches(examples: Examples, size: int) -> Iterator[list[int]]:
    """Number the examples of one batch after the other, long texts with long ones."""
    order = LongestFirst(examples, range(len(examples)))
    for start in range(0, len(order), size):
        yield [order[turn] for turn in range(start, min(start + size, len(order)))]


def put_back(found: Tensor, order: Sequence[int], dim: int) -> Tensor:
    """Sort what was found of examples by their numbers.

    Args:
        found: What was found, in the order of ``batches`` along an axis.
        order: Their numbers.
        dim: The axis.

    Returns:
        The same, example 0 first.
    """
    places = torch.empty(len(order), dtype=torch.long)
    places[torch.tensor(order, dtype=torch.long)] = torch.arange(len(order))
    return found.index_select(dim, places)


def check_modes(modes: Sequence[str]) -> None:
    """Refuse no mode, and unknown ones.

    Args:
        modes: Out of ``linear`` and ``plain``.

    Raises:
        SettingsError: If there is none, or one is unknown.
    """
    if not modes or not set(modes) <= set(MODES):
        raise SettingsError(
            f"evaluation needs modes out of {', '.join(MODES)}; found "
            f"{', '.join(modes) or 'none'}"
        )
