"""OrthoReg: changes whose columns are orthogonal (CVPR 2026, arXiv 2604.17078)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.network import Network
from kfac_artifacts.train.penalties.base import Others, Penalty, PenaltySettings


class OrthoReg(Penalty):
    """``Σ_l ‖ΔWᵀ ΔW − I‖_F``, or with ``ΔW ΔWᵀ`` where that is the smaller one.

    It knows nothing of other tasks. Other parameters than matrices are free. The norm
    is not squared, as in the authors' code; where nothing has changed it is not zero,
    and its gradient is.

    Args:
        others: Nothing.
        settings: How much it counts.
    """

    usual_weight = 1.0

    def __init__(self, others: Others, settings: PenaltySettings) -> None:
        self.settings = settings

    @override
    def prepare(self, network: Network, names: Sequence[str]) -> None:
        if not any(len(network.shapes[name]) == 2 for name in names):
            raise CoverageError(
                "the penalty orthoreg is for matrices, and none is trained; there are "
                f"{', '.join(names[:3])}"
            )

    @override
    def __call__(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        norms = []
        for change in tau.values():
            if change.dim() == 2:
                wide = change if change.shape[0] <= change.shape[1] else change.mT
                gram = wide @ wide.mT
                eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
                norms.append(torch.linalg.matrix_norm(gram - eye))
        return torch.stack(norms).sum()

    @override
    def describe(self) -> dict[str, Json]:
        return {"penalty": {"name": "orthoreg"}}
