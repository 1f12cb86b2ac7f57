"""TSV-Merge: task singular vectors, made orthogonal (Gargiulo et al., CVPR 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.task_vector.merging.base import Merging
from kfac_artifacts.task_vector.merging.matrices import (
    MatrixMethod,
    joined,
    orthonormal,
    spectrum,
)
from kfac_artifacts.task_vector.vector import TaskVector


@final
@dataclass(frozen=True)
class Tsv(MatrixMethod):
    """Of every task the leading singular vectors, those of all made orthogonal.

    ``ΔW_t ≈ U_t S_t V_tᵀ`` by the leading ``rank_share · min(m, n)`` singular values;
    with ``U = [U_1 … U_T]``, and V so, the nearest orthonormal ``U⊥, V⊥``:
    ``ΔW = U⊥ S V⊥ᵀ``. A matrix that has no room for one vector of every task gets the
    mean.

    Attributes:
        rank_share: Share of the singular values that every task keeps; None for 1/T,
            the most that there is room for.
    """

    name = "tsv"

    rank_share: float | None = None

    def __post_init__(self) -> None:
        if self.rank_share is not None and not 0 < self.rank_share <= 1:
            raise SettingsError(
                f"rank_share must be above 0 and at most 1, found {self.rank_share}"
            )

    @override
    def __call__(
        self, vectors: Sequence[TaskVector], alphas: Sequence[float]
    ) -> Merging:
        if self.rank_share is not None and self.rank_share * len(vectors) > 1:
            raise SettingsError(
                f"{len(vectors)} tasks with a rank_share of {self.rank_share:g} have "
                f"no room beside one another; give at most {1 / len(vectors):.3g}"
            )
        return super().__call__(vectors, alphas)

    @override
    def takes(self, shape: Sequence[int], tasks: int) -> bool:
        return super().takes(shape, tasks) and self._rank(shape, tasks) > 0

    def _rank(self, shape: Sequence[int], tasks: int) -> int:
        """How many singular vectors every task keeps of a matrix."""
        share, most = self.rank_share, min(shape)
        return most // tasks if share is None else int(most * share)

    @override
    def merged(
        self, name: str, matrices: Sequence[Float[Tensor, "m n"]]
    ) -> Float[Tensor, "m n"]:
        rank = self._rank(matrices[0].shape, len(matrices))
        found = joined([spectrum(matrix, rank) for matrix in matrices])
        return (orthonormal(found.U) * found.S) @ orthonormal(found.V).mT
