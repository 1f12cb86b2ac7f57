"""The error of blocks as matrices, estimated without bias from held-out examples.

With M_x the gradient of example x for a random cotangent, the block is ``G = E[vec M
vec Mᵀ]``. For an approximation K that knows nothing of the examples:

- ``⟨G, K⟩`` is the mean of ``⟨M_x, K M_x⟩``;
- ``‖G‖²`` is the mean of ``⟨M_x, M_y⟩²`` over pairs of *different* examples with
  independent cotangents (a U-statistic; Hoeffding 1948);
- ``‖K‖²`` is exact: ``Σ_rs ⟨B_r, B_s⟩ ⟨A_r, A_s⟩``.

All three add up over blocks, so the same formulas serve the block-diagonal total.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.capture import Record, TableRecord, gram, join
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Diagonal, Factor
from kfac_artifacts.fidelity.results import Comparison
from kfac_artifacts.operator import EigenOperator, KroneckerSum, SpectralBlock


@dataclass(frozen=True, eq=False)
class Moments:
    """What the error of one block, or of several together, follows from.

    Attributes:
        square: ``‖K‖²``.
        inner: ``⟨M_x, K M_x⟩`` of every example, the mean over cotangents.
        pairs: ``Σ_y ⟨M_x, M_y⟩²`` of every example over all others, the mean over
            cotangents of both.
    """

    square: float
    inner: Float[Tensor, " n"]
    pairs: Float[Tensor, " n"]

    def __add__(self, other: "Moments") -> "Moments":
        """Take two blocks together, as one block-diagonal matrix."""
        return Moments(
            self.square + other.square,
            self.inner + other.inner,
            self.pairs + other.pairs,
        )

    def compare(self) -> Comparison:
        """Estimate the error, with its standard error."""
        n = len(self.inner)
        inner = float(self.inner.mean())
        squared_norm = float(self.pairs.sum()) / (n * (n - 1))
        norm, predicted = math.sqrt(squared_norm), math.sqrt(self.square)
        both = norm * predicted
        return Comparison(
            norm=norm,
            predicted_norm=predicted,
            squared_error=self._squared_error(inner, squared_norm),
            standard_error=self._jackknife(),
            cosine=inner / both if both > 0 else None,
            best_scale=inner / self.square if self.square > 0 else None,
        )

    def _squared_error(self, inner: float, squared_norm: float) -> float | None:
        if squared_norm == 0:
            return None
        return (self.square - 2 * inner + squared_norm) / squared_norm

    def _jackknife(self) -> float | None:
        """Standard error of the squared error, from all but one example each."""
        n = len(self.inner)
        if n < 3:
            return None
        inner = (self.inner.sum() - self.inner) / (n - 1)
        norms = (self.pairs.sum() - 2 * self.pairs) / ((n - 1) * (n - 2))
        if not bool((norms > 0).all()):
            return None
        without = (self.square - 2 * inner + norms) / norms
        return math.sqrt((n - 1) * float(without.var(correction=0)))


Operator: TypeAlias = KroneckerSum | EigenOperator | SpectralBlock


def moments(records: Sequence[Record], operator: Operator) -> Moments:
    """Take the moments of a block.

    Args:
        records: The block on the held-out examples, batch by batch.
        operator: The approximation K.

    Returns:
        The moments, float64, on the CPU.
    """
    inner = torch.cat([_inner(record, operator).double() for record in records])
    squares = gram(join(records)).double().square().mean((1, 3)).cpu()
    pairs = squares.sum(1) - squares.diagonal()
    return Moments(float(operator.squared_norm()), inner.cpu(), pairs)


def _inner(record: Record, operator: Operator) -> Float[Tensor, " n"]:
    """``⟨M, K M⟩`` of every example, the mean over cotangents."""
    if isinstance(operator, SpectralBlock):  # a diagonal
        chunks = record.projections()
        return torch.cat([_weighted(M, operator.values) for M in chunks])
    total = record.g.new_zeros(record.examples)
    if isinstance(operator, EigenOperator):
        whole = operator.whole
        chunks = record.projections(*whole.bases)
        total += torch.cat([_weighted(M, whole.values) for M in chunks])
        pairs = list(whole.rest())
    else:
        pairs = [(B.factor, A.factor) for B, A in operator.terms]
    for B, A in pairs:
        inputs = record.input_kernel(_matrix(A, record, operator.name))
        outputs = record.output_kernel(B.to_dense())
        total += (inputs * outputs).sum((2, 3)).mean(1)
    return operator.scale * total


def _weighted(M: Float[Tensor, "n k o i"], values: Tensor) -> Float[Tensor, " n"]:
    """``Σ values M²`` of every example, the mean over cotangents."""
    return (M.square() * values).sum((2, 3)).mean(1)


def _matrix(A: Factor, record: Record, name: str) -> Tensor:
    """A as a record takes it: of a table the diagonal alone."""
    if not isinstance(record, TableRecord):
        return A.to_dense()
    if not isinstance(A, Diagonal):
        raise FactorError(
            f"{name} is a table, whose factor A must be diagonal, not {A.name}"
        )
    return A.diagonal()
