"""What the spectra of an artifact's factors are like, without decomposing them.

Trace and effective rank are exact and take ``O(d²)``; the largest eigenvalues are those
of subspace iteration (Halko, Martinsson and Tropp 2011), which multiplies with the
factor and never forms it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.factors import Diagonal, EigenProduct, Factor
from kfac_artifacts.seeding import seeded

LEADING = 32
"""How many of the largest eigenvalues are looked for."""
ROUNDS = 4


@dataclass(frozen=True)
class FactorPortrait:
    """A factor M in a few numbers.

    Attributes:
        dim: Its rows.
        trace: ``tr M``.
        effective_rank: ``(tr M)² / ‖M‖²``, from 1 to ``dim`` if M is semidefinite:
            of how many equal eigenvalues it is about. None if M is zero.
        leading: Its largest eigenvalues, falling; None if nobody asked.
    """

    dim: int
    trace: float
    effective_rank: float | None
    leading: tuple[float, ...] | None = None


@dataclass(frozen=True)
class BlockPortrait:
    """A block in a few numbers.

    Attributes:
        trace: Of the whole block, the mean over the artifact's tasks.
        nbytes: Size of its factors as they are stored, in bytes; a factor that several
            blocks share counts where it comes first.
        factors: Its factors by name.
    """

    trace: float
    nbytes: int
    factors: Mapping[str, FactorPortrait]


def portrait(
    artifact: Artifact, decompose: Collection[str] = ()
) -> dict[str, BlockPortrait]:
    """Describe every block of an artifact, reading its factors one after another.

    Args:
        artifact: The artifact.
        decompose: Names of the factors whose largest eigenvalues are wanted.

    Returns:
        The blocks by name, in their order.
    """
    known: dict[str, FactorPortrait] = {}
    found = {}
    for name, block in artifact.blocks.items():
        new = [factor for factor in block.factors if factor not in known]
        held = {factor: artifact.factors[factor] for factor in block.factors}
        for factor in new:
            known[factor] = _of_factor(held[factor], leading=factor in decompose)
        terms = block.products(held, artifact.parameters)
        found[name] = BlockPortrait(
            block.scale(artifact.provenance.tasks)
            * sum(prod(map(_trace, matrices)) for matrices in terms),
            sum(artifact.factors.nbytes(factor) for factor in new),
            {factor: known[factor] for factor in block.factors},
        )
    return found


def leading_eigenvalues(factor: Factor, count: int = LEADING) -> Float[Tensor, " k"]:
    """Find the largest eigenvalues of a semidefinite factor by subspace iteration.

    Args:
        factor: The factor, ``[d, d]``.
        count: How many.

    Returns:
        At most ``count`` and ``d`` of them, falling. None is above the true one; of a
        factor of up to ``2 count`` rows they are exact.
    """
    if isinstance(factor, Diagonal):  # that of a table has a row for every token
        values = factor.diagonal().double()
        return values.topk(min(count, len(values))).values
    wide = factor.to("cpu", torch.float64)
    width = min(wide.dim, 2 * count)
    basis = torch.randn(wide.dim, width, generator=seeded(0), dtype=torch.float64)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(wide.matmul(basis)).Q
    inside = basis.mT @ wide.matmul(basis)
    return torch.linalg.eigvalsh((inside + inside.mT) / 2).flip(0)[:count]


def _of_factor(factor: Factor, *, leading: bool) -> FactorPortrait:
    trace, square = _trace(factor), float(factor.inner(factor))
    return FactorPortrait(
        factor.dim,
        trace,
        trace**2 / square if square > 0 else None,
        tuple(leading_eigenvalues(factor).tolist()) if leading else None,
    )


def _trace(matrix: Factor) -> float:
    if not isinstance(matrix, EigenProduct):
        return float(matrix.diagonal().double().sum())
    beside = sum(_trace(B) * _trace(A) for B, A in matrix.rest())
    return _trace(matrix.S) + beside
