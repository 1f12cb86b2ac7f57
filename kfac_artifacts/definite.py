"""Whether blocks are semidefinite: else a penalty rewards some drift."""

from collections.abc import Mapping
from typing import Any

import torch

from kfac_artifacts.artifact import Artifact, KroneckerBlock, terms_of
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Dense, Factor, Pruned, eigenvalue_ratio

CLEARLY = 1e-2
"""How negative λ_min / λ_max may be. Rounding gives some thousandths, which do no harm;
pruning gives tenths, and training runs away along what is rewarded."""


def check_definite(artifact: Artifact) -> None:
    """Refuse curvature that clearly rewards drift.

    Args:
        artifact: The curvature.

    Raises:
        FactorError: If a factor, or a sum of terms, has an eigenvalue below
            ``-CLEARLY`` times the largest.
    """
    looked_at: set[str] = set()
    for name, block in artifact.blocks.items():
        factors = {f: artifact.factors[f] for f in block.factors}
        if len(terms_of(block)) > 1 and isinstance(block, KroneckerBlock):
            _refuse(name, extreme_ratio(block, factors))
        else:
            for own, factor in factors.items():
                if own not in looked_at:
                    _refuse(own, _lowest(factor))
        looked_at |= set(factors)


def _refuse(name: str, ratio: float) -> None:
    if ratio < -CLEARLY:
        raise FactorError(
            f"{name} is clearly indefinite: its smallest eigenvalue is {ratio:.3f} of "
            "the largest, so that the penalty rewards drift. Compress the curvature "
            "with `kfac compress`, which repairs that, or allow it all the same "
            "(--allow-indefinite)"
        )


def _lowest(factor: Factor) -> float:
    """λ_min / λ_max, or zero where one Cholesky decomposition shows that it is fine."""
    if isinstance(factor, Dense | Pruned):
        matrix = factor.to_dense()
        shift = CLEARLY * _largest(factor)
        raised = matrix + shift * torch.eye(
            factor.dim, dtype=matrix.dtype, device=matrix.device
        )
        if not int(torch.linalg.cholesky_ex(raised).info):
            return 0.0
    return eigenvalue_ratio(*factor.eigenvalue_range())


def _largest(factor: Factor) -> float:
    """The largest eigenvalue, from below, by power iteration."""
    x = factor.diagonal()[:, None].abs().sqrt()
    x = x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)
    for _ in range(10):
        y = factor.matmul(x)
        x = y / y.norm().clamp(min=torch.finfo(x.dtype).tiny)
    return float((x * factor.matmul(x)).sum())


def extreme_ratio(block: KroneckerBlock, factors: Mapping[str, Factor]) -> float:
    """λ_min / λ_max of a sum of terms by Lanczos.

    Args:
        block: The block.
        factors: Its factors.

    Returns:
        The ratio, or an upper bound where the iteration has not converged.
    """
    from scipy.sparse.linalg import (  # noqa: PLC0415 - only where it is needed
        ArpackNoConvergence,
        LinearOperator,
        eigsh,
    )

    a, b = block.terms[0]
    d_in, d_out = factors[a].dim, factors[b].dim
    like = factors[a].diagonal()

    def apply(flat: Any) -> Any:
        W = torch.from_numpy(flat).view(d_out, d_in).to(like)
        return block.product(W, factors).flatten().double().cpu().numpy()

    size = d_in * d_out
    operator = LinearOperator((size, size), matvec=apply, dtype=float)
    start = torch.ones(size, dtype=torch.float64).numpy()  # the same in every run
    ends = []
    for which in ("SA", "LA"):
        try:
            values = eigsh(
                operator,
                1,
                which=which,
                v0=start,
                maxiter=20,
                tol=1e-2,
                return_eigenvectors=False,
            )
        except ArpackNoConvergence as stopped:
            values = stopped.eigenvalues
        ends.append(float(values[0]) if len(values) else 0.0)
    return eigenvalue_ratio(*ends)
