"""Cotangents: the vectors that are pulled back, seeded by the example they belong to.

All have E[s sᵀ] = I, or add up to I, so one backward pass for each gives an unbiased
Gramian:

- ``orthogonal``: consecutive vectors are rows of √C times a random orthogonal matrix
  (Haar, by QR; Mezzadri 2007). Each is uniform on the sphere of radius √C, and together
  they cover the outputs evenly: less variance for the same number of passes. Examples
  of even and of odd ordinal have matrices of their own, so that one half of the data is
  independent of the other and can judge it.
- ``mc``: independent s ~ N(0, I_C) (Martens & Grosse 2015; TAK, Sec. 3.3).
- ``labels``: of an f that is made of distributions, ``2 √p``, a class y of each of
  them, drawn by p: s is ``1 / √p_y`` at y and 0 elsewhere, and what is pulled back to
  the logits is ``onehot(y) - p`` (Kunstner et al. 2019). Its E[s sᵀ] is I up to what
  the sphere on which f lies takes away.
- ``exact``: the C unit vectors (Botev et al. 2017).

Vectors depend on the examples that were chosen and on the seed, never on the batch, the
order or the process in which an example comes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.capture.labels import label_cotangents
from kfac_artifacts.choices import COTANGENTS
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import OutputMap
from kfac_artifacts.seeding import seeded

HALVES = 2


def usual_cotangents(output_map: OutputMap) -> Cotangents:
    """The cotangents of a function unless others are asked for: one draw."""
    return Cotangents("labels" if output_map.classes else "orthogonal", 1, 0)


def choose_cotangents(wanted: Cotangents | None, output_map: OutputMap) -> Cotangents:
    """Check the cotangents that are asked for, or choose the usual ones of f."""
    chosen = wanted or usual_cotangents(output_map)
    check_cotangents(chosen, output_map)
    return chosen


def check_cotangents(cotangents: Cotangents, output_map: OutputMap) -> None:
    """Refuse cotangents that do not exist.

    Args:
        cotangents: What was asked for.
        output_map: The function f.

    Raises:
        SettingsError: If the name is unknown, the number of draws is impossible, or f
            has none of that kind.
    """
    if cotangents.name not in COTANGENTS:
        raise SettingsError(
            f"there are no cotangents {cotangents.name!r}; choose from {COTANGENTS}"
        )
    exact = cotangents.name == "exact"
    if exact and cotangents.draws is not None:
        raise SettingsError(
            "exact cotangents are not drawn: leave the number of draws out"
        )
    if not exact and (cotangents.draws is None or cotangents.draws < 1):
        raise SettingsError("the number of draws must be at least 1")
    name = output_map.info.name
    if cotangents.name == "labels" and not output_map.classes:
        raise SettingsError(
            f"the output map {name!r} gives no distributions that labels could be "
            "drawn from: choose orthogonal, mc or exact cotangents"
        )
    if cotangents.name == "orthogonal" and output_map.ragged:
        raise SettingsError(
            f"the output map {name!r} gives examples different numbers of outputs, so "
            "no orthogonal matrix fits them all: choose labels or mc"
        )


def count(cotangents: Cotangents, width: int) -> int:
    """Number of backward passes per batch."""
    return width if cotangents.draws is None else cotangents.draws


def divisor(cotangents: Cotangents) -> int:
    """What the sum over the passes is divided by: the draws; 1 for unit vectors."""
    return 1 if cotangents.draws is None else cotangents.draws


@dataclass(frozen=True)
class Drawing:
    """The cotangents of a choice of examples.

    Attributes:
        cotangents: Which kind, how many draws, and the seed.
        indices: Numbers of the chosen examples; the place of one here is its ordinal.
        classes: Of each distribution that f is made of; 0 if it is not.
    """

    cotangents: Cotangents
    indices: Sequence[int]
    classes: int = 0

    def vectors(
        self, ordinals: Sequence[int], f: Float[Tensor, "n c"]
    ) -> Iterator[Float[Tensor, "n c"]]:
        """Give the cotangents of a batch, one ``[N, C]`` tensor per backward pass.

        Args:
            ordinals: Ordinals of the examples of the batch.
            f: The output map's value, for its width, number type and device.

        Yields:
            One cotangent for every example.
        """
        if self.cotangents.name == "exact":
            for k in range(f.shape[1]):
                unit = torch.zeros_like(f)
                unit[:, k] = 1
                yield unit
            return
        if self.cotangents.name == "labels":
            yield from self._of_labels(ordinals, f)
            return
        draw = self._gaussian if self.cotangents.name == "mc" else self._orthogonal
        drawn = draw(ordinals, f.shape[1]).to(f)
        yield from drawn.unbind(1)

    def _of_labels(
        self, ordinals: Sequence[int], f: Float[Tensor, "n c"]
    ) -> Iterator[Float[Tensor, "n c"]]:
        seed = self.cotangents.seed
        for k in range(divisor(self.cotangents)):
            seeds = [f"labels:{seed}:{self.indices[r]}:{k}" for r in ordinals]
            yield label_cotangents(f.detach(), self.classes, seeds)

    def _gaussian(
        self, ordinals: Sequence[int], width: int
    ) -> Float[Tensor, "n draws c"]:
        seed, draws = self.cotangents.seed, divisor(self.cotangents)
        rows = [
            torch.stack(
                [gaussian((seed, self.indices[r], k), width) for k in range(draws)]
            )
            for r in ordinals
        ]
        return torch.stack(rows)

    def _orthogonal(
        self, ordinals: Sequence[int], width: int
    ) -> Float[Tensor, "n draws c"]:
        draws = divisor(self.cotangents)
        half = -(-len(self.indices) // HALVES)
        rows = min(width, half * draws)
        ordinal = torch.tensor(ordinals)[:, None]
        places = ordinal // HALVES * draws + torch.arange(draws)
        groups = places // rows * HALVES + ordinal % HALVES
        drawn = torch.empty(*places.shape, width, dtype=torch.float64)
        for group in groups.unique().tolist():
            matrix = orthogonal((self.cotangents.seed, group), rows, width)
            here = groups == group
            drawn[here] = matrix[places[here] % rows]
        return drawn


def gaussian(seeds: tuple[int, ...], *shape: int) -> Float[Tensor, "..."]:
    """Draw independent standard normal numbers, seeded by numbers."""
    return torch.randn(*shape, generator=seeded(":".join(map(str, seeds))))


def orthogonal(
    seeds: tuple[int, ...], rows: int, width: int
) -> Float[Tensor, "rows width"]:
    """Draw rows of √width times a random orthogonal matrix, ``rows <= width``."""
    Q, R = torch.linalg.qr(gaussian(seeds, width, rows).double())
    # the signs make the distribution that of Haar, whatever QR's own convention
    return math.sqrt(width) * (Q * R.diagonal().sign()).mT
