"""ACTMat: RegMean with the inputs guessed from the changes (Hameed et al. 2026)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.task_vector.merging.matrices import MatrixMethod

LARGEST = 20_000
"""From this size of an axis on a matrix is a table of tokens, which has no inputs."""


@final
@dataclass(frozen=True)
class Actmat(MatrixMethod):
    """``ΔW = (Σ_t ΔW_t C_t) (Σ_t C_t)⁺`` with ``C_t = ΔW_tᵀ ΔW_t`` in the place of A.

    Gradients are sums of ``g aᵀ``, so that ``ΔWᵀ ΔW`` resembles ``Σ a aᵀ``; no data and
    no curvature are needed. Matrices with an axis of 20 000 or more get the mean.

    Attributes:
        centred: Whether to take the mean over rows out of ΔW_t before C_t is made of
            it: the estimate of ACE-Merging (Xu et al., CVPR 2026), without the prior
            and the refinement that they add.
        columns: Patterns of the names of weights that are stored ``[d_in, d_out]``,
            such as ``*.c_attn.weight`` of GPT-2; all others are ``[d_out, d_in]``.
    """

    name = "actmat"

    centred: bool = False
    columns: tuple[str, ...] = ()

    @override
    def takes(self, shape: Sequence[int], tasks: int) -> bool:
        return super().takes(shape, tasks) and max(shape) < LARGEST

    @override
    def merged(
        self, name: str, matrices: Sequence[Float[Tensor, "m n"]]
    ) -> Float[Tensor, "m n"]:
        if any(fnmatchcase(name, pattern) for pattern in self.columns):
            return self._solve([matrix.mT for matrix in matrices]).mT
        return self._solve(matrices)

    def _solve(self, matrices: Sequence[Float[Tensor, "o i"]]) -> Float[Tensor, "o i"]:
        pulled = torch.zeros_like(matrices[0])
        total = pulled.mT @ pulled
        for W in matrices:
            seen = W - W.mean(0) if self.centred else W
            C = seen.mT @ seen
            total += C
            pulled += W @ C
        return pulled @ torch.linalg.pinv(total, hermitian=True)
