"""Merged eigen blocks: the eigenvectors of the merged A and B, and S fitted to all.

The sum of tasks ``Σ λ_t K_t`` has no eigenvectors of the form ``v ⊗ u``. In the basis
of those of the merged A and B (Eq. 8, exactly), its diagonal is the S that comes
closest to it in the Frobenius norm, and keeps its trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from typing_extensions import override

from kfac_artifacts.artifact import Block, Factors, MergeError, NamedConfig
from kfac_artifacts.factors import (
    Diagonal,
    EigenProduct,
    Factor,
    LowRank,
    eigen_product,
)
from kfac_artifacts.merge.factors import MergedFactors, Part

KEPT = 8
"""Decompositions in memory: of A and B of a few blocks."""


class RefittedFactors(Factors):
    """Merged factors, of which those of eigen blocks are fitted when asked for.

    Args:
        parts: What is added; nothing can be taken out.
        blocks: The merged blocks whose kind is refitted, by name.
        merged: The other merged factors, and the sums of these.
    """

    def __init__(
        self, parts: Sequence[Part], blocks: Mapping[str, Block], merged: MergedFactors
    ) -> None:
        self._parts, self._blocks, self._merged = parts, blocks, merged
        shapes = parts[0].artifact.parameters
        self._dims = {n: d for b in blocks.values() for n, d in b.sizes(shapes)}
        self._bases = {n for b in blocks.values() for n in (*b.inputs, *b.outputs)}
        self._corrected = {block.factors[-1]: name for name, block in blocks.items()}
        self._basis = lru_cache(KEPT)(self._decomposed)

    @override
    def __getitem__(self, name: str) -> Factor:
        if name in self._bases:
            return self._basis(name).to(dtype=self._merged.dtype(name))
        if name in self._corrected:
            found = self.product(self._corrected[name]).S
            return found.to(dtype=self._merged.dtype(name))
        return self._merged[name]

    def product(self, name: str) -> EigenProduct:
        """Fit a block, in float64, at the scale of all its tasks."""
        block, total = self._blocks[name], self._total(name)
        a, b, _ = block.factors
        A, B = self._basis(a), self._basis(b)
        start = Diagonal(torch.outer(B.values, A.values).flatten())
        basis = eigen_product(A, B, start)
        weighted = [weight * basis.projected(K) for weight, K in total]
        S = torch.stack(weighted).sum(0)
        return eigen_product(A, B, Diagonal(S.flatten()))

    def errors(self) -> dict[str, MergeError]:
        """Measure what the blocks lost, each against the sum over what was merged.

        Returns:
            The exact relative errors; there is no bound that is cheaper to have.
        """
        found = {}
        for name in self._blocks:
            total = self._total(name)
            square = sum(v * w * float(K.inner(L)) for v, K in total for w, L in total)
            fitted = float(self.product(name).values.square().sum())
            lost = (max(square - fitted, 0.0) / square) ** 0.5 if square > 0 else 0.0
            found[name] = MergeError(lost, lost)
        return found

    @override
    def structure(self, name: str) -> NamedConfig:
        if name in self._bases:
            return NamedConfig(
                LowRank.name, {"rank": self._dims[name], "diagonal": False}
            )
        if name in self._corrected:
            return NamedConfig(Diagonal.name)
        return self._merged.structure(name)

    @override
    def storage(self, name: str) -> str | None:
        if name in self._bases or name in self._corrected:
            return self._merged.shared_storage(name)
        return self._merged.storage(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged)

    def __len__(self) -> int:
        return len(self._merged)

    def _decomposed(self, name: str) -> LowRank:
        matrix = self._merged.dense(name)
        return LowRank.of_dense(matrix, len(matrix), remainder=False)

    def _total(self, name: str) -> list[tuple[float, EigenProduct]]:
        """The block of every part with its weight, at the scale of all tasks."""
        tasks = sum(part.tasks for part in self._parts)
        size = sum(part.size for part in self._parts)
        found = []
        for part in self._parts:
            held = part.artifact.factors
            A, B, S = (held[own] for own in part.artifact.blocks[name].factors)
            whole = eigen_product(A, B, S).to(dtype=torch.float64)
            weight = part.size / size * tasks / part.tasks
            found.append((weight, whole))
        return found
