"""The covariance file of CorDA in peft: ``torch.save`` of module name to matrix.

``LoraConfig(corda_config=CordaConfig(covariance_file=…))`` takes it in place of a run
over data. peft's own matrix is the mean over examples of the sum over positions, each
example's inputs being divided by their largest entry first; A is their mean without
that. The decomposition is the same for any multiple of a matrix, so no factor matters;
that examples are not weighed by their largest entry does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges.exporting import Export
from kfac_artifacts.bridges.own_inputs import inputs_of


@final
@dataclass(frozen=True)
class Corda(Export):
    """One file; all of it is in memory once."""

    name = "corda"
    use = "input_inverse"
    is_file = True

    @override
    def write(self, artifact: Artifact, place: Path) -> Mapping[str, str]:
        found, left = inputs_of(artifact, self.modules)
        shared: dict[tuple[str, bool], Tensor] = {}
        for own in found:
            key = own.factor, bool(own.block.biased)
            if key not in shared:
                shared[key] = own.covariance.float().contiguous()
        torch.save(
            {
                f"{self.prefix}{own.name}": shared[own.factor, bool(own.block.biased)]
                for own in found
            },
            place,
        )
        return left
