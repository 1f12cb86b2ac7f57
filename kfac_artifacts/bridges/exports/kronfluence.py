"""kronfluence's covariance matrices: sums, and of how many positions they are.

``load_covariance_matrices`` of kronfluence 1.0 reads the directory; its arguments and
the metadata of a dataset it writes itself. The import of the same name has the
conventions. B is that of one task: of several an artifact has the sum over tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, KroneckerBlock
from kfac_artifacts.bridges.exporting import Export
from kfac_artifacts.bridges.imports.kronfluence import COVARIANCES, POSITIONS
from kfac_artifacts.bridges.own_inputs import inputs_of
from kfac_artifacts.errors import MismatchError

NOT_KRONECKER = "it has not A and B of one input and a bias, if any"


@final
@dataclass(frozen=True)
class Kronfluence(Export):
    """A directory of files."""

    name = "kronfluence"
    use = "inverse"

    @override
    def write(self, artifact: Artifact, place: Path) -> Mapping[str, str]:
        if artifact.provenance.tasks > 1:
            raise MismatchError(
                "kronfluence has sums of one task, and this is of several"
            )
        examples = artifact.provenance.sources[0].data.examples
        found, left = inputs_of(artifact, self.modules)
        A: dict[str, Tensor] = {}
        B: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        for own in found:
            block, name = own.block, f"{self.prefix}{own.name}"
            if not isinstance(block, KroneckerBlock) or block.constant:
                left[own.name] = NOT_KRONECKER
                continue
            A[name], B[name] = (
                (artifact.factors[factor].to_dense() * count).contiguous()
                for factor, count in zip(
                    block.terms[0], (own.positions, examples), strict=True
                )
            )
            counts[name] = torch.tensor([own.positions])
        if not A:
            raise MismatchError("it has no Kronecker block with its positions")
        for kind, tensors in zip(COVARIANCES, (A, B), strict=True):
            save_file(tensors, place / f"{kind}.safetensors")
        for kind in (POSITIONS, POSITIONS.replace("activation", "gradient")):
            save_file(counts, place / f"{kind}.safetensors")
        return left
