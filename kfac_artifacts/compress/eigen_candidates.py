"""What is tried on blocks of EK-FAC, whose factors go together.

A vector of A or B is worth the squares of the eigenvalues S along it, of which the
Frobenius norm is made. It is kept where they are worth the numbers that it takes, at a
price that is the same for all vectors; from price to price more of them are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.compress.candidates import Candidate
from kfac_artifacts.compress.compress_factor import Reduced, reduce_factor
from kfac_artifacts.compress.corrected import squares, worth
from kfac_artifacts.compress.eigen_sides import ALL, Kept, KeptBlock, Side
from kfac_artifacts.compress.forms.leading import foremost
from kfac_artifacts.compress.originals import originals
from kfac_artifacts.compress.recipes import Recipe
from kfac_artifacts.factors import Diagonal
from kfac_artifacts.format import described

PRICES = (math.inf, *(2.0**power for power in range(16, -20, -2)))
"""Of a number, over the squares that there are for each number on the average."""
STORAGES, EXACT = ("int8", "bfloat16"), "float32"
"""Storages that are tried, the smallest first, and the one that loses nothing."""

MOST_ROUNDED, LEAST_ROUNDED = 0.12, 0.7
"""Share of what is left out in what is lost: the rest of it is rounding."""


@dataclass(frozen=True)
class Choice:
    """What is kept of every factor of a group.

    Attributes:
        kept: Places of the vectors that are, of every A and B; None for all of them.
        storage: How numbers are stored.
    """

    kept: Mapping[str, Tensor | None]
    storage: str

    def recipe(self, name: str) -> Recipe:
        """Name what is done to one factor."""
        places = self.kept.get(name)
        form = "" if places is None else f"low-rank-{len(places)}+"
        return Recipe.parse(form + self.storage)


def groups(artifact: Artifact) -> list[Artifact]:
    """Give the blocks of EK-FAC, those that share factors together.

    Args:
        artifact: Any artifact.

    Returns:
        Artifacts of some of its blocks.
    """
    found: list[dict[str, Block]] = []
    for name, block in artifact.blocks.items():
        if not block.bases:
            continue
        sharing = [g for g in found if _factors(g) & {*block.factors}]
        found = [g for g in found if g not in sharing]
        found.append({n: b for g in sharing for n, b in g.items()} | {name: block})
    return [replace(artifact, blocks=group) for group in found]


def tried(group: Artifact) -> tuple[list[Candidate], float]:
    """Compress blocks that share factors in several ways, and measure each.

    Args:
        group: As ``groups`` gives it.

    Returns:
        What was tried, with exact errors, and the squared norm of the blocks, scaled
        to the mean of the tasks.
    """
    trial, found = _Trial(group), list[Candidate]()
    left = list(STORAGES)
    for kept, cut in _steps(group):
        for storage in tuple(left):
            found.append(trial.candidate(Choice(kept, storage)))
            if cut < MOST_ROUNDED * found[-1].loss:  # more vectors would be in vain
                left.remove(storage)
            if cut > LEAST_ROUNDED * found[-1].loss:  # finer numbers would be in vain
                break
    every = dict.fromkeys(trial.bases)
    found += [trial.candidate(Choice(every, storage)) for storage in (*left, EXACT)]
    return found, trial.size


class _Trial:
    """Measures choices for a group; what they share is made once."""

    def __init__(self, group: Artifact) -> None:
        blocks = group.blocks.values()
        self._terms = [block.factors for block in blocks]
        self._scales = [block.scale(group.provenance.tasks) ** 2 for block in blocks]
        self._originals = dict(originals(group))
        bases = dict.fromkeys(name for block in blocks for name in block.bases)
        self._sides = {name: Side(self._originals[name].factor) for name in bases}
        self.bases = tuple(bases)
        whole = {name: side.exact() for name, side in self._sides.items()}
        self._tables = {s: self._arranged(b, s) for _, b, s in self._terms}
        self._exact = self._blocks(whole, self._tables)
        self.size = self._inner(self._exact, self._exact)

    def candidate(self, choice: Choice) -> Candidate:
        """Make less of all factors, and measure what that loses."""
        made = {name: self._made(name, choice) for name in self._sides}
        kept = {
            name: side.kept(made[name], choice.kept[name], choice.storage)
            for name, side in self._sides.items()
        }
        tables = {}
        for a, b, s in self._terms:
            few = self._tables[s][kept[b].places][:, kept[a].places]
            original = replace(self._originals[s], factor=Diagonal(few.flatten()))
            made[s] = reduce_factor(original, choice.recipe(s))
            tables[s] = made[s].factor.diagonal().view_as(few)
        nbytes = sum(r.info.nbytes + described(r.info, n) for n, r in made.items())
        loss = 0.0
        if any(reduced.raised is not None for reduced in made.values()):
            loss = self._loss(self._blocks(kept, tables))
        return Candidate({name: choice.recipe(name) for name in made}, nbytes, loss)

    def _made(self, name: str, choice: Choice) -> Reduced:
        original, places = self._originals[name], choice.kept[name]
        if places is not None:
            chosen = original.eigen[0].new_zeros(self._sides[name].rank)
            chosen[places] = 1
            original = replace(original, worth=lambda: chosen)
        return reduce_factor(original, choice.recipe(name))

    def _arranged(self, output: str, corrected: str) -> Tensor:
        values = self._originals[corrected].factor.diagonal().cpu()
        return values.view(self._sides[output].rank, -1)

    def _blocks(
        self, kept: Mapping[str, Kept], tables: Mapping[str, Tensor]
    ) -> list[KeptBlock]:
        return [
            KeptBlock(kept[a], kept[b], tables[s].double()) for a, b, s in self._terms
        ]

    def _loss(self, found: Sequence[KeptBlock]) -> float:
        """Squared relative error of all blocks."""
        change = self._inner(found, found) - 2 * self._inner(self._exact, found)
        return max(self.size + change, 0.0) / self.size if self.size > 0 else 0.0

    def _inner(self, one: Sequence[KeptBlock], other: Sequence[KeptBlock]) -> float:
        every = zip(self._scales, one, other, strict=True)
        return sum(scale * own.inner(theirs) for scale, own, theirs in every)


def _factors(blocks: Mapping[str, Block]) -> set[str]:
    return {name for block in blocks.values() for name in block.factors}


def _steps(group: Artifact) -> Iterator[tuple[dict[str, Tensor | None], float]]:
    """Which vectors are kept from price to price, and the share of S² left out."""
    blocks = group.blocks.values()
    tables = {block.factors[-1]: squares(group, block) for block in blocks}
    size = sum(float(table.sum()) for table in tables.values())
    each = size / sum(d**2 for b in blocks for _, d in b.sizes(group.parameters))
    before: list[int] = []
    for price in PRICES:
        kept = _kept(group, tables, price * each if each > 0 else math.inf)
        counts = [-1 if places is None else len(places) for places in kept.values()]
        if counts != before and max(counts) > 0:
            yield kept, _left_out(group, tables, kept) / size if size > 0 else 0.0
        before = counts


def _left_out(
    group: Artifact, tables: Mapping[str, Tensor], kept: Mapping[str, Tensor | None]
) -> float:
    """Add up the squares of S that are not along vectors that are kept."""
    total = 0.0
    for a, b, s in (block.factors for block in group.blocks.values()):
        rows, columns = (ALL if (found := kept[n]) is None else found for n in (b, a))
        table = tables[s]
        total += float(table.sum() - table[rows][:, columns].sum())
    return total


def _kept(
    group: Artifact, tables: Mapping[str, Tensor], price: float
) -> dict[str, Tensor | None]:
    """Which vectors to keep of every A and B; None for all of them."""
    blocks, structure = group.blocks.values(), group.factors.structure
    dims = {n: d for b in blocks for n, d in b.sizes(group.parameters)}
    found: dict[str, Tensor | None] = {}
    kept: dict[str, Tensor] = {}
    for place in (0, 1):  # of A, and then of B along what is kept of A
        for name in dict.fromkeys(block.bases[place] for block in blocks):
            own = [block for block in blocks if block.bases[place] == name]
            numbers = dims[name]
            if place == 1:  # and those of S
                numbers += sum(len(kept[block.bases[0]]) for block in own)
            along = worth(name, own, lambda block: tables[block.factors[-1]], kept)
            count = max(1, int((along > price * numbers).sum()))
            kept[name] = foremost(along, count)
            whole = count == structure(name).configuration["rank"]
            found[name] = None if whole else kept[name]
    return found
