"""Budgets: the recipe of every factor that loses least for its bytes."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kfac_artifacts.artifact import Artifact, NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress.candidates import Candidate, gain, hull
from kfac_artifacts.compress.compress_factor import compress_factor
from kfac_artifacts.compress.eigen_candidates import groups, tried
from kfac_artifacts.compress.forms import Leading
from kfac_artifacts.compress.originals import Original, originals
from kfac_artifacts.compress.recipes import Recipe
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import Diagonal
from kfac_artifacts.format import described, factor_info, overhead
from kfac_artifacts.progress import Advance, unseen

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CANDIDATES = (
    "diagonal+bfloat16",
    *(f"low-rank-{rank}+int8" for rank in RANKS),
    *(f"block-{count}+int8" for count in (4, 8, 16, 32, 64)),
    "int8",
    "bfloat16",
    "float32",
)
"""What is tried on every factor; the last loses nothing."""
FOR_DIAGONALS = ("int8", "bfloat16", "float32")
TINY = 8
"""Below this size of a factor another candidate than the first may be the smallest."""


@dataclass(frozen=True)
class Budget:
    """How large an artifact may be, or how much it may lose.

    Attributes:
        max_bytes: Largest size of all its files in bytes, or None. Where tensors take
            several files, these and their index may add some hundred bytes each.
        max_error: Largest relative Frobenius error of all blocks together, or None.
    """

    max_bytes: int | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if (self.max_bytes is None) == (self.max_error is None):
            raise SettingsError("a budget is either a largest size or a largest error")


def choose_recipes(
    artifact: Artifact,
    budget: Budget,
    progress: Advance = unseen,
) -> dict[str, Recipe]:
    """Choose a recipe for every factor, greedily by error per byte.

    Every factor begins with its smallest candidate. The step to a larger one that takes
    away most error per byte is taken first, until the budget is used up. The squared
    error of a block is the sum of those of its factors times its squared norm, to first
    order; a factor that several blocks share counts in each. The factors of blocks of
    EK-FAC go together: what is tried is measured on all blocks that share some.

    Args:
        artifact: What is to be compressed.
        budget: What may be used.
        progress: Called with 1 after every factor.

    Returns:
        Recipes by factor.

    Raises:
        SettingsError: If nothing is small enough, with the least size.
    """
    fixed, bound = overhead(artifact), groups(artifact)
    plain = {n: block for n, block in artifact.blocks.items() if not block.bases}
    apart = replace(artifact, blocks=plain)
    if not bound:
        _check_size(artifact, budget, fixed)
    ladders, norms = dict[str, list[Candidate]](), dict[str, float]()
    for name, original in originals(apart):
        ladders[name] = _ladder(name, original)
        norms[name] = float(original.factor.inner(original.factor))
        progress(1)
    sizes = dict[str, float]()
    for group in bound:
        candidates, size = tried(group)
        name = next(iter(candidates[0].recipes))
        ladders[name], sizes[name] = hull(candidates), size
        progress(len(candidates[0].recipes))
    weights = _weights(apart, norms, sizes)
    chosen = _greedy(ladders, weights, budget, fixed)
    return {name: recipe for each in chosen for name, recipe in each.recipes.items()}


def _check_size(artifact: Artifact, budget: Budget, fixed: int) -> None:
    """Refuse what is too small whatever the numbers are, before looking at them."""
    sizes = {
        name: (dim, _smallest(name, dim, artifact.factors.structure(name)))
        for block in artifact.blocks.values()
        for name, dim in block.sizes(artifact.parameters)
    }
    sure = fixed + sum(size for dim, size in sizes.values() if dim >= TINY)
    if budget.max_bytes is not None and budget.max_bytes < sure:
        raise _too_small(budget.max_bytes, fixed + sum(s for _, s in sizes.values()))


def _smallest(name: str, dim: int, structure: NamedConfig) -> int:
    """Bytes of the smallest candidate, which follow from the size of a factor."""
    diagonal = structure.name == Diagonal.name
    codecs = FOR_DIAGONALS if diagonal else (Recipe.parse(CANDIDATES[0]).storage,)
    kept = NamedConfig(Diagonal.name)
    infos = [factor_info(kept, dim, STORAGES[codec]) for codec in codecs]
    return min(info.nbytes + described(info, name) for info in infos)


def _too_small(found: int, least: int) -> SettingsError:
    return SettingsError(
        f"{found} bytes are too few: the smallest that can be made of this artifact, "
        f"with all its files, takes at most {least}B"
    )


def _ladder(name: str, original: Original) -> list[Candidate]:
    """Candidates by size, each better per byte than what could be had between."""
    diagonal = isinstance(original.factor, Diagonal)
    recipes = FOR_DIAGONALS if diagonal else CANDIDATES
    found: dict[int, Candidate] = {}
    for recipe in map(Recipe.parse, recipes):
        if isinstance(recipe.form, Leading) and recipe.form.amount * 2 > original.dim:
            continue  # larger than all of it as int8
        compressed = compress_factor(original, recipe)
        lost = 0.0 if compressed.loss is None else compressed.loss.error**2
        size = compressed.info.nbytes + described(compressed.info, name)
        best = found.get(size)
        if best is None or lost < best.loss:
            found[size] = Candidate({name: recipe}, size, lost)
    return hull([*found.values()])


def _weights(
    artifact: Artifact, norms: Mapping[str, float], sizes: Mapping[str, float]
) -> dict[str, float]:
    """Share of the squared norm of all blocks that every factor is part of.

    Args:
        artifact: The blocks whose factors are chosen for by themselves.
        norms: Squared norms of these factors.
        sizes: Squared norms of the blocks of others, by the first factor of each group.

    Returns:
        Shares by factor.
    """
    weights, total = dict.fromkeys(norms, 0.0) | dict(sizes), sum(sizes.values())
    tasks = artifact.provenance.tasks
    for block in artifact.blocks.values():
        for term in block.terms:
            size = math.prod(norms[name] for name in term) * block.scale(tasks) ** 2
            total += size
            for name in term:
                weights[name] += size
    return {name: size / total if total > 0 else 0.0 for name, size in weights.items()}


def _greedy(
    ladders: Mapping[str, Sequence[Candidate]],
    weights: Mapping[str, float],
    budget: Budget,
    fixed: int,
) -> list[Candidate]:
    rung = dict.fromkeys(ladders, 0)
    size = fixed + sum(ladder[0].nbytes for ladder in ladders.values())
    lost = _lost(ladders, weights, rung)
    if budget.max_bytes is not None and size > budget.max_bytes:
        raise _too_small(budget.max_bytes, size)
    steps = [(-_slope(ladders, weights, name, 0), name) for name in ladders]
    heapq.heapify(steps)
    while steps:
        slope, name = heapq.heappop(steps)
        if budget.max_error is not None and lost <= budget.max_error**2:
            lost = _lost(ladders, weights, rung)  # differences have left some rounding
            if lost <= budget.max_error**2:
                break
        if slope >= 0:
            break
        before, after = ladders[name][rung[name] : rung[name] + 2]
        more = after.nbytes - before.nbytes
        if budget.max_bytes is not None and size + more > budget.max_bytes:
            continue  # a smaller step of another factor may still fit
        rung[name] += 1
        size, lost = size + more, lost - weights[name] * (before.loss - after.loss)
        heapq.heappush(steps, (-_slope(ladders, weights, name, rung[name]), name))
    return [ladders[name][i] for name, i in rung.items()]


def _lost(
    ladders: Mapping[str, Sequence[Candidate]],
    weights: Mapping[str, float],
    rung: Mapping[str, int],
) -> float:
    """Squared relative error of all blocks together, to first order."""
    return sum(weights[name] * ladders[name][i].loss for name, i in rung.items())


def _slope(
    ladders: Mapping[str, Sequence[Candidate]],
    weights: Mapping[str, float],
    name: str,
    rung: int,
) -> float:
    ladder = ladders[name]
    if rung + 1 == len(ladder):
        return 0.0
    return weights[name] * gain(ladder[rung], ladder[rung + 1])
