"""Whether blocks are semidefinite: else a penalty rewards some drift."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import (
    CLEARLY,
    Factor,
    eigenvalue_ratio,
    lowest,
    rounding,
)
from kfac_artifacts.seeding import seeded

SMALL = 64
"""Size of a sum of terms of which all eigenvalues are computed."""


def check_definite(
    artifact: Artifact, factors: Mapping[str, Factor] | None = None
) -> None:
    """Refuse curvature that clearly rewards drift.

    Args:
        artifact: The curvature.
        factors: Its factors, where they have been read already.

    Raises:
        FactorError: If a factor has an eigenvalue that is more negative than
            ``rounding`` explains, or a sum of terms a clearly negative one.
    """
    held = artifact.factors if factors is None else factors
    looked_at: set[str] = set()
    for name, block in artifact.blocks.items():
        if block.is_sum:
            terms = {f: held[f] for f in block.factors}
            refuse_indefinite(name, extreme_ratio(block, terms), CLEARLY)
            continue
        for own in block.factors:
            if own not in looked_at:
                allowed = rounding(exact=artifact.factors.is_exact(own))
                refuse_indefinite(own, lowest(held[own], allowed), allowed)
        looked_at |= set(block.factors)


def refuse_indefinite(name: str, ratio: float, allowed: float) -> None:
    """Refuse a factor or a sum by its smallest eigenvalue.

    Args:
        name: Of the factor or block.
        ratio: λ_min / λ_max.
        allowed: How negative that may be.

    Raises:
        FactorError: If it is more negative.
    """
    if not ratio >= -allowed:
        raise FactorError(
            f"{name} is clearly indefinite: its smallest eigenvalue is {ratio:.3g} of "
            "the largest, so that the penalty rewards drift. Compress the curvature "
            "with `kfac compress`, which repairs that, or allow it all the same "
            "(--allow-indefinite)"
        )


def extreme_ratio(block: Block, factors: Mapping[str, Factor]) -> float:
    """λ_min / λ_max of a sum of terms: by Lanczos, in float64, unless it is small.

    Args:
        block: The block.
        factors: Its factors.

    Returns:
        The ratio, or an upper bound where the iteration has not converged.
    """
    wide = {name: factor.to(dtype=torch.float64) for name, factor in factors.items()}
    *inputs, output = block.products(wide, {})[0]  # no sum of terms needs shapes
    d_out, d_in = output.dim, math.prod(A.dim for A in inputs)
    like = output.diagonal()

    def apply(flat: Any) -> Any:
        W = torch.as_tensor(flat).view(d_out, d_in).to(like)
        return block.product(W, wide).flatten().cpu().numpy()

    size = d_in * d_out
    if size <= SMALL:
        columns = [apply(row) for row in torch.eye(size, dtype=torch.float64)]
        matrix = torch.stack([torch.from_numpy(column) for column in columns])
        values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
        return eigenvalue_ratio(float(values[0]), float(values[-1]))
    return eigenvalue_ratio(*_lanczos(apply, size))


def _lanczos(apply: Any, size: int) -> list[float]:
    """The smallest and the largest eigenvalue of a symmetric operator."""
    from scipy.sparse.linalg import (  # noqa: PLC0415 - only where it is needed
        ArpackNoConvergence,
        LinearOperator,
        eigsh,
    )

    start = torch.randn(size, generator=seeded(0), dtype=torch.float64).numpy()
    if not apply(start).any():
        return [0.0, 0.0]  # of zero there is nothing to iterate with
    operator = LinearOperator((size, size), matvec=apply, dtype=float)
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
    return ends
