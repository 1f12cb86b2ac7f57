"""The linear map that does to the inputs of all tasks what each task's own one does."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import CLEARLY, eigh

SURE = 1e-6
"""Above it no eigenvalue of inputs of unit size is rounding."""
ROUNDING = 2.0**-23
"""What an eigenvalue may be of rounding to float32, of the largest."""


def regress(
    changes: Sequence[Float[Tensor, "o i"]],
    inputs: Iterable[Tensor],
    off_diagonal: float,
) -> Float[Tensor, "o i"]:
    """Minimise ``Σ_t tr((W - W_t) A_t (W - W_t)ᵀ)``.

    Args:
        changes: W_t.
        inputs: A_t, ``[i, i]``, or its diagonal ``[i]`` if all else is zero; looked at
            one by one.
        off_diagonal: Factor of the entries of A_t off the diagonal.

    Returns:
        ``M + (Σ_t (W_t - M) A_t) (Σ_t A_t)⁺`` with the mean M of all W_t: the minimum,
        and where no input ever is, the mean.

    Raises:
        FactorError: If ``Σ_t A_t`` has clearly negative eigenvalues.
    """
    mean = sum(changes[1:], changes[0]) / len(changes)
    pulled = torch.zeros_like(mean)
    total: Tensor | None = None
    for W, A in zip(changes, inputs, strict=True):
        own = A if A.ndim == 1 else torch.lerp(A.diagonal().diag(), A, off_diagonal)
        pulled += (W - mean) * own if own.ndim == 1 else (W - mean) @ own
        total = own if total is None else _added(total, own)
    return mean if total is None else mean + _divided(pulled, total)


def _added(one: Tensor, other: Tensor) -> Tensor:
    if one.ndim == other.ndim:
        return one + other
    return torch.diag(one) + other if one.ndim == 1 else one + torch.diag(other)


def _divided(pulled: Float[Tensor, "o i"], total: Tensor) -> Float[Tensor, "o i"]:
    """Give ``X`` with ``X total = pulled``, zero along what ``total`` does not have."""
    size = total if total.ndim == 1 else total.diagonal()
    scale = torch.where(size > 0, size, torch.inf).rsqrt()  # inputs become of unit size
    if total.ndim == 1:
        return pulled * scale.square()
    unit = total * scale * scale[:, None]
    unit.diagonal()[scale == 0] = 1.0  # so that what is always zero costs no more
    return _solved(pulled * scale, unit) * scale


def _solved(
    pulled: Float[Tensor, "o i"], unit: Float[Tensor, "i i"]
) -> Float[Tensor, "o i"]:
    lowered = unit - SURE * torch.eye(len(unit)).to(unit)
    if int(torch.linalg.cholesky_ex(lowered).info) == 0:
        return torch.cholesky_solve(pulled.mT, torch.linalg.cholesky(unit)).mT
    values, vectors = eigh(unit)
    if values[0] < -CLEARLY * values[-1]:
        raise FactorError(
            f"it is clearly indefinite: the smallest eigenvalue is "
            f"{float(values[0] / values[-1]):.3g} of the largest"
        )
    kept = values > ROUNDING * values[-1]
    basis = vectors[:, kept]
    return (pulled @ basis / values[kept]) @ basis.mT
