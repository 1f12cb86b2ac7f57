"""A first look at a few examples: is f their own, and what do the layers see of it.

Two examples go forward through all parts, and their gradients back: every part is
proved with the cotangents that it has in the whole network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kfac_artifacts.capture import (
    OUTSIDE,
    Coverage,
    Inventory,
    Layer,
    prove_part,
    require_finite,
    require_layers,
    require_same,
    requiring_gradients,
    true_gradients,
)
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.streaming.chain import ALTOGETHER, Chain
from kfac_artifacts.estimate.streaming.part import ENTRY, Part
from kfac_artifacts.network import Batch, Examples
from kfac_artifacts.progress import Advance


def assign_layers(
    inventory: Inventory, chain: Chain, model_id: str
) -> list[list[Layer]]:
    """Say which part every layer belongs to.

    Args:
        inventory: The layers; those that more than one part uses are dropped, as the
            proof of the whole network would find that no layer sees all of it.
        chain: The blocks.
        model_id: What to call the model in the error.

    Returns:
        The layers of every part.

    Raises:
        SettingsError: If modules of two parts make one layer.
    """
    places = {n: i + 1 for i, names in enumerate(chain.inside) for n in names}
    places |= dict.fromkeys(chain.before, 0)
    found: list[list[Layer]] = [[] for _ in range(len(chain.inside) + 2)]
    for layer in list(inventory.layers):
        names = set(layer.parameters.values())
        own = {places.get(name, len(chain.inside) + 1) for name in names}
        both = names & chain.before & chain.after
        if len(own) > 1 or (both and len(layer.modules) > 1):
            raise SettingsError(
                f"{model_id} cannot be streamed: {layer.name} is used before and "
                f"behind the blocks; exclude it, or {ALTOGETHER}"
            )
        if both:
            inventory.drop(layer, OUTSIDE)
        else:
            found[own.pop()].append(layer)
    return found


class Trial:
    """The hidden states of a few examples before every part.

    Args:
        parts: The parts.
        examples: The dataset.
        pair: Numbers of two of them, as of ``pair_to_prove``.
    """

    def __init__(
        self, parts: Sequence[Part], examples: Examples, pair: Sequence[int]
    ) -> None:
        self._parts = parts
        self.batch = examples.batch(pair)
        self._alone = pair if len({*pair}) > 1 else []
        self._batches: list[Batch] = [
            self.batch,
            *(examples.batch([index]) for index in self._alone),
        ]
        self._entries: list[Tensor | None] = []

    def go_forward(self, advance: Advance) -> None:
        """Go through all parts, and compare f of examples alone and together.

        Args:
            advance: Called with 1 after every part.

        Raises:
            CoverageError: If f of an example depends on others.
            SourceError: If weights are not finite.
        """
        hidden: list[Tensor] = []
        outputs: list[Tensor] = []
        for part in self._parts:
            batches = self._batches if part.is_first else _with(self._batches, hidden)
            self._entries.append(None if part.is_first else hidden[0])
            with part.holding(), torch.no_grad():
                outputs, hidden = [], []
                for batch in batches:
                    outputs.append(part(batch))
                    hidden += [] if part.is_last else [part.hidden]
            advance(1)
        together, *alone = outputs
        f = self._parts[-1].output_map
        for index, among, (own,) in zip(self._alone, together, alone, strict=False):
            require_same(f, own, among, f"example {index}")

    def prove(
        self, inventory: Inventory, layers: Sequence[Sequence[Layer]], advance: Advance
    ) -> list[Coverage]:
        """Go back through all parts that have layers, and prove these.

        Args:
            inventory: Of the network; layers that fail move to its ``uncovered``.
            layers: Those of every part.
            advance: Called with 1 after every part.

        Returns:
            What was proved of every part.

        Raises:
            CoverageError: If nothing is.
            KfacError: If f is not finite.
        """
        found = [Coverage([], {}, {}) for _ in self._parts]
        s: Tensor | None = None
        for number in reversed(range(len(self._parts))):
            part = self._parts[number]
            own = Inventory(list(layers[number]), inventory.excluded)
            own.uncovered = {
                n: r for n, r in inventory.uncovered.items() if self._is_of(part, n)
            }
            own.refused = inventory.refused
            with part.holding():
                found[number], s = self._prove(part, own, s)
            kept = {id(layer) for layer in own.layers}
            mine = {id(layer) for layer in layers[number]}
            inventory.layers = [
                x for x in inventory.layers if id(x) in kept or id(x) not in mine
            ]
            inventory.uncovered |= own.uncovered
            advance(1)
            if not any(layers[:number]):
                break
        require_layers(inventory)
        return found

    @staticmethod
    def _is_of(part: Part, name: str) -> bool:
        """Whether a parameter is of a part; of the last one if it is of none."""
        chain = part.chain
        if not part.is_last or name in part.names:
            return name in part.names
        return name not in chain.before.union(*chain.inside)

    def _prove(
        self, part: Part, inventory: Inventory, s: Tensor | None
    ) -> tuple[Coverage, Tensor | None]:
        entry = self._entries[part.number]
        batch = dict(self.batch)
        if entry is not None:
            batch[ENTRY] = entry.clone().requires_grad_()
        f, s, true = true_gradients(part, batch, inventory.excluded, s)
        if part.is_last:
            require_finite(f)
        g = None
        if entry is not None:
            with requiring_gradients(part, wanted=False), torch.enable_grad():
                f = part(batch)
                (g,) = torch.autograd.grad(f, batch[ENTRY], s)
        return prove_part(part, inventory, batch, (f.detach(), s, true)), _flat(g)


def _flat(g: Tensor | None) -> Tensor | None:
    return None if g is None else g.flatten(1)


def _with(batches: Sequence[Batch], hidden: Sequence[Tensor]) -> list[Batch]:
    return [{**b, ENTRY: h} for b, h in zip(batches, hidden, strict=True)]
