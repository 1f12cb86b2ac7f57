"""Compressing one factor, and telling what that lost."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.artifact import Loss, NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress.factor_fitness import with_fitness
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.compress.recipes import Recipe
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Diagonal, Factor, LowRank, eigenvalue_ratio, lowest
from kfac_artifacts.format import FactorInfo, Storage, factor_info, rounded

NEGATIVE = 1e-5
"""An eigenvalue is negative below minus this share of the largest."""


@dataclass(frozen=True)
class Compressed:
    """A factor as it will be read again, how it is stored, and what was lost.

    ``loss`` is None where nothing was: the numbers are those that there were.
    """

    factor: Factor
    info: FactorInfo
    loss: Loss | None


@dataclass(frozen=True)
class Reduced:
    """A factor as it will be read again, before it is measured what was lost.

    Attributes:
        factor: The factor; the very one that there was, if nothing is lost.
        info: How it is stored.
        raised: Its smallest eigenvalue over the largest in magnitude, and what was
            added to its diagonal for that; None if nothing is lost.
    """

    factor: Factor
    info: FactorInfo
    raised: tuple[float, float] | None


def compress_factor(
    original: Original, recipe: Recipe, *, fitness: bool = False
) -> Compressed:
    """Compress one factor, and measure what that loses.

    Args:
        original: The factor.
        recipe: What to keep, and how to store it; see ``reduce_factor``.
        fitness: Whether to measure for what else than a penalty it is fit.

    Returns:
        The compressed factor.

    Raises:
        FormatError: If the storage cannot hold the values.
        FactorError: If vectors must stay that the recipe does not keep.
    """
    found = reduce_factor(original, recipe)
    if found.raised is None:
        return Compressed(found.factor, found.info, None)
    loss = Loss(_error(found.factor, original), *found.raised)
    if fitness:
        loss = with_fitness(loss, found.factor, original.factor)
    return Compressed(found.factor, found.info, loss)


def reduce_factor(original: Original, recipe: Recipe) -> Reduced:
    """Make less of one factor.

    If it stands for a semidefinite matrix, it is one afterwards, up to rounding: its
    diagonal is raised by as much as its smallest eigenvalue is below zero.

    Args:
        original: The factor. A diagonal one keeps its structure.
        recipe: What to keep, and how to store it. Where that would take more bytes than
            the factor as it is, in the same storage, the structure is kept.

    Returns:
        What is left of it.

    Raises:
        FormatError: If the storage cannot hold the values.
        FactorError: If vectors must stay that the recipe does not keep.
    """
    codec = STORAGES[recipe.storage]
    exact = original.factor
    candidate = exact
    if not isinstance(exact, Diagonal):
        candidate = recipe.form.apply(original)
        if original.basis and not isinstance(candidate, LowRank):
            raise FactorError(
                f"{recipe.form.name} does not go with ekfac, whose other factors are "
                "given in the vectors of this one; give low-rank-…, svd-… or a storage"
            )
        smaller = _info(candidate, codec).nbytes < _info(exact, codec).nbytes
        candidate = candidate if smaller else exact
    found = _rounded(candidate, original, codec)
    kept = found is exact or _same(found, exact)
    if kept and not (original.definite and lowest(exact, NEGATIVE) < -NEGATIVE):
        return Reduced(exact, _info(exact, codec), None)
    found, ratio, lift = _lifted(candidate, found, original, codec)
    return Reduced(found, _info(found, codec), (ratio, lift))


def _info(factor: Factor, codec: Storage) -> FactorInfo:
    return factor_info(
        NamedConfig(factor.name, factor.configuration), factor.dim, codec
    )


def _rounded(candidate: Factor, original: Original, codec: Storage) -> Factor:
    """Round, and let the diagonal of what is left take up the rounding as well."""
    if not isinstance(candidate, LowRank) or candidate.remainder is None:
        return rounded(candidate, codec)
    if not isinstance(candidate.vectors, Tensor):
        return rounded(candidate, codec)  # it was rounded before
    kept = rounded(LowRank(candidate.vectors, candidate.values), codec)
    if not isinstance(kept, LowRank):
        raise FactorError(f"a low-rank factor was read again as {kept.name}")
    whole = kept.completed(original.diagonal, definite=original.definite)
    return rounded(whole, codec)


def _same(found: Factor, exact: Factor) -> bool:
    if type(found) is not type(exact):
        return False
    ours, theirs = found.tensors(), exact.tensors()
    return ours.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[name].cpu()) for name, tensor in ours.items()
    )


def _lifted(
    candidate: Factor, found: Factor, original: Original, codec: Storage
) -> tuple[Factor, float, float]:
    """Raise the diagonal until nothing is negative.

    Returns:
        The factor, its smallest eigenvalue before that over the largest in
        magnitude, and what was added.
    """
    low, high = found.eigenvalue_range()
    ratio = eigenvalue_ratio(low, high)
    lift, step = 0.0, 1 + 1e-3
    while original.definite and low < -NEGATIVE * high:
        lift -= low * step
        step *= 2  # rounding may eat up a small one
        found = rounded(candidate.add_diagonal(lift), codec)
        low, high = found.eigenvalue_range()
    return found, ratio, lift


def _error(found: Factor, original: Original) -> float:
    if isinstance(original.factor, Diagonal):
        exact = original.factor.diagonal().cpu().double()
        lost, size = (found.diagonal() - exact).norm(), exact.norm()
    else:
        exact = original.matrix.double()  # squares may be beyond float32
        lost, size = (found.to_dense().double() - exact).norm(), exact.norm()
    return float(lost / size) if size > 0 else 0.0
