"""For what a compressed factor is still good, by the measure of each use.

A penalty asks how near M is to the M0 it was made from, which its largest eigenvalues
settle. Who inverts (GPTQ, Frantar et al. 2023; MEMIT, Meng et al. 2023) or projects on
what is hardly used (AlphaEdit, Fang et al. 2025) asks for the smallest ones, and who
weighs coordinates (Wanda, Sun et al. 2024) for the diagonal.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Loss
from kfac_artifacts.factors import BlockDiagonal, Diagonal, Factor, eigh, floats

DAMPING = 0.01
"""Share of the mean diagonal that is added before inverting: GPTQ's ``percdamp``."""
TIED = 1e-9
"""Eigenvalues are one if they are so close, as a share of the largest."""


@dataclass(frozen=True)
class Fitness:
    """A factor M against the M0 it was made from, with δ = 0.01 of M0's mean diagonal.

    Attributes:
        inverse_error: ``‖(M + δI)⁻¹ − (M0 + δI)⁻¹‖ / ‖(M0 + δI)⁻¹‖`` in the Frobenius
            norm; None if one of the two is not positive definite.
        null_overlap: ``‖P0 P‖² / k``, with the projections on the eigenvectors of the k
            smallest eigenvalues of both, k as many as M0 has below δ; where M has
            several equal eigenvalues of which some are among them, its mean over all
            choices. None if k is 0.
        diagonal_error: Relative error of the diagonal, in the Euclidean norm.
    """

    inverse_error: float | None
    null_overlap: float | None
    diagonal_error: float


def fitness(found: Factor, exact: Factor) -> Fitness:
    """Measure a compressed factor, in float64.

    It takes two eigendecompositions and a product, ``O(d³)``; of two diagonal factors
    ``O(d)``. Where M0 is zero so is every error, and there is no null space.

    Args:
        found: The compressed factor M, ``[d, d]``.
        exact: The factor M0 it was made from, of the same size.

    Returns:
        The measures.
    """
    ours, theirs = (f.to("cpu", torch.float64) for f in (found, exact))
    diagonal = theirs.diagonal()
    lost, size = (ours.diagonal() - diagonal).norm(), diagonal.norm()
    about = float(lost / size) if size > 0 else 0.0
    if float(theirs.inner(theirs)) == 0:
        return Fitness(0.0, None, about)
    damping = DAMPING * float(diagonal.mean())
    if isinstance(ours, Diagonal) and isinstance(theirs, Diagonal):
        inverse = _inverse_of_diagonals(ours.diagonal(), diagonal, damping)
        return Fitness(inverse, _overlap_of_diagonals(ours, theirs, damping), about)
    (values, U), (exact_values, V) = _spectrum(ours), _spectrum(theirs)
    shared = (V.mT @ U).square()
    return Fitness(
        _inverse_error(values, exact_values, shared, damping),
        _null_overlap(values, exact_values, shared, damping),
        about,
    )


def with_fitness(loss: Loss, found: Factor, exact: Factor) -> Loss:
    """Add to what compressing lost what it means for each use."""
    measures = fitness(found, exact)
    return replace(loss, **vars(measures))


def _spectrum(factor: Factor) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues, ascending, and eigenvectors as columns; blocks one by one."""
    if isinstance(factor, Diagonal):
        values, vectors = factor.diagonal(), torch.eye(factor.dim, dtype=torch.float64)
    elif isinstance(factor, BlockDiagonal):
        parts = [eigh(floats(run)) for run in factor.runs]
        values = torch.cat([values.flatten() for values, _ in parts])
        vectors = torch.block_diag(*(own for _, stack in parts for own in stack))
        if factor.permutation is not None:
            rows = factor.permutation.long()
            vectors = torch.empty_like(vectors).index_copy_(0, rows, vectors)
    else:
        return eigh(factor.to_dense())
    order = values.argsort(stable=True)
    return values[order], vectors[:, order]


def _inverse_error(
    values: Tensor, exact: Tensor, shared: Tensor, damping: float
) -> float | None:
    """From eigenvalues, ascending, and the squared products of eigenvectors."""
    # Σ_ij (v_i · u_j)² (f(μ_j) − f(λ_i))²: no difference in which small errors drown
    if min(float(values[0]), float(exact[0])) + damping <= 0:
        return None
    ours, theirs = 1 / (values + damping), 1 / (exact + damping)
    lost = (shared * (ours[None] - theirs[:, None]).square()).sum()
    return float((lost / theirs.square().sum()).sqrt())


def _null_overlap(
    values: Tensor, exact: Tensor, shared: Tensor, damping: float
) -> float | None:
    count = int((exact < damping).sum())
    if count == 0:
        return None
    weights = _lowest(values, count)
    return min(float((shared[:count] @ weights).sum() / count), 1.0)  # but for rounding


def _lowest(values: Float[Tensor, " d"], count: int) -> Float[Tensor, " d"]:
    """Weights of eigenvectors, ascending: 1 for the lowest, less for those tied."""
    near = TIED * float(values.abs().max())
    sure = values < values[count - 1] - near
    tied = (values <= values[count - 1] + near) & ~sure
    weights = sure.to(values.dtype)
    weights[tied] = (count - int(sure.sum())) / int(tied.sum())
    return weights


def _inverse_of_diagonals(
    values: Tensor, exact: Tensor, damping: float
) -> float | None:
    if min(float(values.min()), float(exact.min())) + damping <= 0:
        return None
    ours, theirs = 1 / (values + damping), 1 / (exact + damping)
    return float((ours - theirs).norm() / theirs.norm())


def _overlap_of_diagonals(
    ours: Diagonal, theirs: Diagonal, damping: float
) -> float | None:
    below = theirs.diagonal() < damping
    count = int(below.sum())
    if count == 0:
        return None
    values, order = ours.diagonal().sort(stable=True)
    return float(_lowest(values, count)[below[order]].sum() / count)
