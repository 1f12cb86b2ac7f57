"""Iso-CTS: Iso-C with room for what is one task's own (Marczak et al., ICML 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.task_vector.merging.matrices import (
    MatrixMethod,
    joined,
    orthonormal,
    spectrum,
)


@final
@dataclass(frozen=True)
class IsoCts(MatrixMethod):
    """``ΔW = σ̄ U⊥ V⊥ᵀ`` of common and of task-specific directions.

    The common ones are the leading singular vectors of ``Σ_t ΔW_t = U S Vᵀ``, k of
    ``min(m, n)``; every task adds the leading ones of ``ΔW_t - U_k U_kᵀ ΔW_t``, the
    same number of each. σ̄ is the mean of the singular values of all of these that are
    not zero; the authors' code counts zeros as well (see ``IsoC``).

    Attributes:
        common_share: Share of the common directions; the room that is left is rounded
            so that all tasks get the same.
    """

    name = "iso-cts"

    common_share: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.common_share <= 1:
            raise SettingsError(
                f"common_share must be from 0 to 1, found {self.common_share}"
            )

    @override
    def merged(
        self, name: str, matrices: Sequence[Float[Tensor, "m n"]]
    ) -> Float[Tensor, "m n"]:
        most, tasks = min(matrices[0].shape), len(matrices)
        room = (most - int(most * self.common_share)) / tasks
        own = min(round(room), most // tasks)
        common = spectrum(sum(matrices[1:], matrices[0]), most - own * tasks)
        rests = [
            spectrum(matrix - common.U @ (common.U.mT @ matrix), own, of=matrix)
            for matrix in matrices
        ]
        found = joined([*rests, common])
        level = found.S.mean() if len(found.S) else 0.0
        return level * (orthonormal(found.U) @ orthonormal(found.V).mT)
