"""The block-diagonal operator ``G + δ I`` over the covered parameters.

The scale is that of the *mean drift*: ``xᵀ G x`` is ``Artifact.drift(x)``, so for one
task G is the Gramian ``(1/n) Σ_x J(x)ᵀ J(x)`` as the artifact approximates it, and for
several merged ones their weighted mean, λ summing to one, whatever their number.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import final

import torch

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.checked import checked_factors
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import Dense, Diagonal, EigenProduct, Factor
from kfac_artifacts.operator.block_diagonal import (
    BlockDiagonalOperator,
    check_damping,
)
from kfac_artifacts.operator.block_operators import KroneckerSum, SpectralBlock
from kfac_artifacts.operator.eigen_operator import EigenOperator
from kfac_artifacts.operator.space import ParameterSpace
from kfac_artifacts.operator.spectrum import Decomposed, Eigen


@final
class CurvatureOperator(BlockDiagonalOperator):
    """The curvature of an artifact, ``G + damping I``; all its factors are in memory.

    Args:
        artifact: The curvature.
        damping: δ, added to the diagonal.
        dtype: float32 or float64; None is the wider one of float32 and the factors'.
        device: Where to compute; None is where the factors are.

    Raises:
        SettingsError: If the damping is negative, or the number type is another.
        FactorError: If a factor must not be computed with.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        damping: float = 0.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_damping(damping)
        factors = checked_factors(artifact, allow_indefinite=True)
        dtype = dtype or _wide(factors.values())
        if dtype not in {torch.float32, torch.float64}:
            raise SettingsError(
                f"an operator computes in float32 or float64, not in {dtype}"
            )
        first = next(iter(factors.values())).diagonal()
        place = first.device if device is None else torch.device(device)
        held = {n: f.to(place, dtype) for n, f in factors.items()}
        tasks, shapes = artifact.provenance.tasks, artifact.parameters
        shared = cache(Decomposed)  # a factor of several blocks is decomposed once
        blocks = {
            name: block_operator(
                name, block, held, shapes, block.scale(tasks), damping, shared
            )
            for name, block in artifact.blocks.items()
        }
        super().__init__(ParameterSpace(artifact), blocks, dtype, place)


def block_operator(
    name: str,
    block: Block,
    held: Mapping[str, Factor],
    shapes: Mapping[str, tuple[int, ...]],
    scale: float,
    damping: float = 0.0,
    decomposed: Callable[[Factor], Decomposed] = Decomposed,
) -> KroneckerSum | EigenOperator | SpectralBlock:
    """Make the operator of a block.

    Args:
        name: Name of the block.
        block: The block.
        held: Its factors by name, on the device and in the type to compute in.
        shapes: Shapes of its parameters.
        scale: What the block as it is stored is multiplied with.
        damping: Added to the diagonal.
        decomposed: What makes the decomposition of a factor, or has it.

    Returns:
        The operator; where terms are one matrix, the A of each pair is 1.
    """
    products = block.products(held, shapes)
    whole = products[0][0]
    if isinstance(whole, EigenProduct):
        return EigenOperator(name, whole, scale, damping)
    if isinstance(whole, Diagonal) and len(products) == len(products[0]) == 1:
        values = whole.diagonal().view(block.matrix_shape(shapes))
        own = Eigen(whole.diagonal(), None)  # its coordinates are its eigenvectors
        return SpectralBlock(name, own, own, scale * values + damping)
    if len(products[0]) > 1:
        pairs = [(decomposed(B), decomposed(A)) for A, B in products]
        return KroneckerSum(name, pairs, scale, damping)
    if len(products) > 1:
        whole = _sum([matrix for (matrix,) in products])
    one = Diagonal(whole.diagonal().new_ones(1))
    return KroneckerSum(name, [(decomposed(whole), decomposed(one))], scale, damping)


def _sum(factors: list[Factor]) -> Factor:
    return Dense(torch.stack([factor.to_dense() for factor in factors]).sum(0))


def _wide(factors: Iterable[Factor]) -> torch.dtype:
    double = any(factor.dtype == torch.float64 for factor in factors)
    return torch.float64 if double else torch.float32
