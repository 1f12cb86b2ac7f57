"""The artifact as a whole: blocks, the factors they refer to, and provenance."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact.blocks.base import Block
from kfac_artifacts.artifact.factors import Factors
from kfac_artifacts.artifact.provenance import Provenance
from kfac_artifacts.canonical import short


@dataclass(frozen=True, eq=False)
class Artifact:
    """Blocks by name, the factors they refer to, and where they come from.

    The factors need not be in memory: most are asked for one at a time.
    ``digest`` is the sha256 of the manifest, once there is one on disk.
    """

    provenance: Provenance
    blocks: Mapping[str, Block]
    factors: Factors
    digest: str | None = None

    def __repr__(self) -> str:
        about = self.provenance
        digest = "" if self.digest is None else f", digest {short(self.digest)}"
        return (
            f"Artifact(curvature of {about.base.id!r:.60}, {len(self.blocks)} blocks, "
            f"{len(self.factors)} factors, {about.tasks} tasks of {about.size} "
            f"examples{digest})"
        )

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every covered parameter with its shape."""
        return self.provenance.base.shapes

    def drift(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Estimate ``Σ_t λ_t τᵀ G_t τ`` (TAK, Eq. 6), λ summing to one; no gradient.

        Args:
            tau: Task vector by parameter name; it must have every covered parameter.

        Returns:
            The weighted mean drift of the artifact's tasks, one number.
        """
        values = []
        with torch.no_grad():
            for block in self.blocks.values():
                W = block.gather(tau)
                own = {name: self.factors[name] for name in block.factors}
                M = block.product(W, own)
                values.append(block.scale(self.provenance.tasks) * (W * M).sum())
        return torch.stack(values).sum()
