"""TaLoS: only those weights move that the outputs hardly notice (Iurada et al. 2025).

The sensitivity of a weight is ``Σ_x (∂z_ŷ(x)/∂θ)²`` over examples of the task, with one
logit z_ŷ drawn for each by the model's own probabilities. In rounds all weights are
left out that are above the quantile of the round; those are a tenth of their size in
the rounds after, so that what is chosen does not rest on them. Tables of tokens and
positions are left out: rows that do not occur have no sensitivity, and would be chosen
before all that can move.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.network import Network
from kfac_artifacts.seeding import seeded
from kfac_artifacts.train.regimes.matrices import tables_of
from kfac_artifacts.train.regimes.ordinary import Ordinary
from kfac_artifacts.train.task import Learning

ROUNDS = 4
SOFT = 0.1
"""What is left of a weight that was left out, while others are chosen."""
EXAMPLES = 256


class Talos(Ordinary):
    """``f(x, θ0 + m ∘ τ)`` with a mask m of the least sensitive weights.

    Args:
        network: The pretrained network; it is left as it is.
        names: Names of the parameters that may move.
        share: Share of their numbers that do move.

    Raises:
        SettingsError: If the share is not above 0 and at most 1.
        CoverageError: If none of the parameters is anything but a table.
    """

    def __init__(
        self, network: Network, names: Sequence[str], *, share: float = 0.1
    ) -> None:
        if not 0 < share <= 1:
            raise SettingsError(f"share must be above 0 and at most 1, found {share}")
        tables = tables_of(network)
        found = [name for name in names if name not in tables]
        if not found:
            raise CoverageError(
                f"TaLoS trains no tables, and {', '.join(names[:3])} are; let other "
                "parameters move"
            )
        super().__init__(network, found)
        self.share = share
        self.masks = [torch.ones_like(change).bool() for change in self.changes]

    @override
    def prepare(self, learning: Learning) -> None:
        self.masks = list(self._chosen(learning).values())

    @override
    def tau(self) -> dict[str, Tensor]:
        values = (c * m for c, m in zip(self.changes, self.masks, strict=True))
        return dict(zip(self.names, values, strict=True))

    @override
    def state(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.changes, strict=True))

    @override
    def describe(self) -> dict[str, Json]:
        return {"regime": {"name": "talos", "share": self.share}}

    def _chosen(self, learning: Learning) -> dict[str, Tensor]:
        """The weights that may move, by the rounds of TaLoS."""
        order = torch.randperm(
            len(learning.indices), generator=seeded(learning.settings.seed)
        )
        examples = [learning.indices[i] for i in order[:EXAMPLES].tolist()]
        kept = dict(zip(self.names, self.masks, strict=True))
        total = sum(mask.numel() for mask in kept.values())
        for number in range(1, ROUNDS + 1):
            scores = self._sensitivities(learning, examples, kept, number)
            count = max(1, round(total * self.share ** (number / ROUNDS)))
            kept = _least(scores, kept, count)
        return kept

    def _sensitivities(
        self,
        learning: Learning,
        examples: Sequence[int],
        kept: Mapping[str, Tensor],
        number: int,
    ) -> dict[str, Float[Tensor, "..."]]:
        head = learning.task.head
        values = {n: value.detach() for n, value in self.network.parameters().items()}
        for name, mask in kept.items():
            soft = torch.where(mask, 1.0, SOFT).to(values[name])
            values[name] = (values[name] * soft).requires_grad_()
        leaves = [values[name] for name in kept]
        sums = {n: torch.zeros_like(c) for n, c in zip(kept, self.changes, strict=True)}
        generator = seeded(f"talos {learning.settings.seed} {number}")
        for index in examples:  # squares of single examples' gradients
            with torch.enable_grad():
                batch = learning.task.examples.batch([index])
                logits = head.logits(self.network.functional_call(values, batch))[0]
                chances = logits.detach().float().softmax(-1).cpu()
                drawn = int(torch.multinomial(chances, 1, generator=generator))
                found = torch.autograd.grad(
                    logits[drawn], leaves, materialize_grads=True
                )
            for added, gradient in zip(sums.values(), found, strict=True):
                added.add_(gradient.to(added).square())
        return sums


def _least(
    scores: Mapping[str, Tensor], kept: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Masks of so many of the kept numbers with the lowest scores; the first of equals.

    Args:
        scores: Of all numbers.
        kept: Masks of those to choose from.
        count: How many.

    Returns:
        The masks.
    """
    left = torch.cat([scores[name][kept[name]] for name in kept])
    chosen = torch.zeros_like(left, dtype=torch.bool)
    chosen[left.argsort(stable=True)[:count]] = True
    parts = chosen.split([int(mask.sum()) for mask in kept.values()])
    found = {name: torch.zeros_like(mask) for name, mask in kept.items()}
    for (name, mask), part in zip(kept.items(), parts, strict=True):
        found[name][mask] = part
    return found
