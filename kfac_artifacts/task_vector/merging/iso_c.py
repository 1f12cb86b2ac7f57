"""Iso-C: the sum with all singular values the same (Marczak et al., ICML 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.task_vector.merging.matrices import MatrixMethod, spectrum


@final
@dataclass(frozen=True)
class IsoC(MatrixMethod):
    """``ΔW = σ̄ U Vᵀ`` with ``Σ_t ΔW_t = U S Vᵀ`` and σ̄ the mean of S.

    S are the singular values that are not zero. Of a sum of full rank those are all.
    The authors' code counts zeros as well: of a sum of rank r, as of adapters, its σ̄ is
    r / min(m, n) of this one, and their arbitrary vectors get that level, too.
    """

    name = "iso-c"

    @override
    def merged(
        self, name: str, matrices: Sequence[Float[Tensor, "m n"]]
    ) -> Float[Tensor, "m n"]:
        found = spectrum(sum(matrices[1:], matrices[0]))
        level = found.S.mean() if len(found.S) else 0.0
        return level * (found.U @ found.V.mT)
