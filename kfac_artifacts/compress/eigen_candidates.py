"""What is tried on blocks of EK-FAC, whose factors go together.

A vector of A or B is worth the squares of the eigenvalues S along it, of which the
Frobenius norm is made. It is kept where they are worth the numbers that it takes, at a
price that is the same for all vectors; from price to price more of them are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.compress.candidates import Candidate
from kfac_artifacts.compress.compress_factor import compress_factor
from kfac_artifacts.compress.corrected import KeptVectors, squares, worth
from kfac_artifacts.compress.originals import Original, originals
from kfac_artifacts.compress.recipes import Recipe
from kfac_artifacts.factors import Factor
from kfac_artifacts.format import described

PRICES = (math.inf, *(8.0**power for power in range(5, -7, -1)))
"""Of a number, over the squares that there are for each number on the average."""
STORAGE = "int8"
WHOLE = ("int8", "bfloat16", "float32")
"""Storages that are tried with all vectors; the last loses nothing."""


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
    ready = list(originals(group))
    exact = {name: original.factor for name, original in ready}
    size = sum(_inner(group, b, exact, exact) for b in group.blocks.values())
    found = []
    for recipes in _recipes(group):
        factors, nbytes, same = _compressed(group, ready, recipes)
        lost = 0.0 if same else size + _change(group, exact, factors)
        loss = max(lost, 0.0) / size if size > 0 else 0.0
        found.append(Candidate(recipes, nbytes, loss))
    return found, size


def _factors(blocks: Mapping[str, Block]) -> set[str]:
    return {name for block in blocks.values() for name in block.factors}


def _recipes(group: Artifact) -> Iterator[dict[str, Recipe]]:
    blocks = group.blocks.values()
    names = dict.fromkeys(name for block in blocks for name in block.factors)
    tables = {block.factors[-1]: squares(group, block) for block in blocks}
    each = sum(float(table.sum()) for table in tables.values()) / sum(
        dim**2 for block in blocks for _, dim in block.sizes(group.parameters)
    )
    seen = set[tuple[int | None, ...]]()
    for price in PRICES:
        ranks = _ranks(group, tables, price * each if each > 0 else math.inf)
        if tuple(ranks.values()) not in seen:
            seen.add(tuple(ranks.values()))
            yield {name: _kept(ranks.get(name)) for name in names}
    for storage in WHOLE:
        yield dict.fromkeys(names, Recipe.parse(storage))


def _kept(rank: int | None) -> Recipe:
    return Recipe.parse(STORAGE if rank is None else f"low-rank-{rank}+{STORAGE}")


def _ranks(
    group: Artifact, tables: Mapping[str, Tensor], price: float
) -> dict[str, int | None]:
    """How many vectors to keep of every A and B; None for all of them."""
    blocks, structure = group.blocks.values(), group.factors.structure
    dims = {n: d for b in blocks for n, d in b.sizes(group.parameters)}
    ranks: dict[str, int | None] = {}
    kept: dict[str, Tensor] = {}
    for place in (0, 1):  # of A, and then of B along what is kept of A
        for name in dict.fromkeys(block.bases[place] for block in blocks):
            own = [block for block in blocks if block.bases[place] == name]
            numbers = dims[name]
            if place == 1:  # and those of S
                numbers += sum(len(kept[block.bases[0]]) for block in own)
            along = worth(name, own, lambda block: tables[block.factors[-1]], kept)
            count = max(1, int((along > price * numbers).sum()))
            kept[name] = along.argsort(descending=True)[:count]
            whole = count == structure(name).configuration["rank"]
            ranks[name] = None if whole else count
    return ranks


def _compressed(
    group: Artifact,
    ready: Sequence[tuple[str, Original]],
    recipes: Mapping[str, Recipe],
) -> tuple[dict[str, Factor], int, bool]:
    """Compress all factors: what they become, in how many bytes, and if unchanged."""
    kept, factors, nbytes, same = KeptVectors(group), dict[str, Factor](), 0, True
    for name, original in ready:
        found = compress_factor(kept.narrowed(name, original), recipes[name])
        kept.remember(name, original, found.factor)
        factors[name] = found.factor
        nbytes += found.info.nbytes + described(found.info, name)
        same = same and found.loss is None
    return factors, nbytes, same


def _change(
    group: Artifact, exact: Mapping[str, Factor], factors: Mapping[str, Factor]
) -> float:
    """``Σ ‖K'‖² - 2 ⟨K, K'⟩``: with ``Σ ‖K‖²`` the squared error of all blocks."""
    return sum(
        _inner(group, block, factors, factors)
        - 2 * _inner(group, block, exact, factors)
        for block in group.blocks.values()
    )


def _inner(
    group: Artifact,
    block: Block,
    one: Mapping[str, Factor],
    other: Mapping[str, Factor],
) -> float:
    ((left,),) = block.products(one, group.parameters)
    ((right,),) = block.products(other, group.parameters)
    return block.scale(group.provenance.tasks) ** 2 * float(left.inner(right))
