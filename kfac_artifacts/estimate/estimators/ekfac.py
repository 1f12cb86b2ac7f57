"""EK-FAC: KFAC's eigenvectors, with eigenvalues that the data say (George et al. 2018).

With ``A = U_A Λ_A U_Aᵀ`` and ``B = U_B Λ_B U_Bᵀ`` of KFAC and M the gradient of an
example for a cotangent,

    S = E[(U_Bᵀ M U_A)²]        entry by entry,

which is the diagonal of the Gramian in the basis ``U_B ⊗ U_A``. No other eigenvalues in
this basis come closer to the Gramian in the Frobenius norm, and ``tr S = tr G``. The
expectation is over the examples and cotangents that gave A and B, which makes S too
large for other examples; unless switched off, each block's is multiplied by what two
halves of them say (``ekfac_scale``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from typing_extensions import override

from kfac_artifacts.artifact import Block, EigenBlock, Json, KroneckerBlock, NamedConfig
from kfac_artifacts.capture import KroneckerLayer, Layer, Run
from kfac_artifacts.choices import KEPT_BYTES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.accumulator import Accumulator
from kfac_artifacts.estimate.estimators.base import Cost, Estimate, Estimator
from kfac_artifacts.estimate.estimators.ekfac_fit import EigenvalueFit
from kfac_artifacts.estimate.recording import (
    RecordingAccumulator,
    Records,
    look_until_done,
    recorded,
)
from kfac_artifacts.factors import Diagonal, Factor, LowRank


@final
@dataclass(frozen=True)
class Ekfac(Estimator):
    """KFAC with corrected eigenvalues; of tables, whose A is diagonal, KFAC itself.

    Attributes:
        shrinkage: Whether it guards against learning the noise of examples.
        memory: Bytes of activations that may be kept at once; what does not fit is
            computed again, which changes no factor.
    """

    name = "ekfac"
    cost = Cost(recorded=True, uncounted="eigenvectors and their eigenvalues")

    shrinkage: bool = True
    memory: int = KEPT_BYTES

    @override
    def check(self, examples: int) -> None:
        if self.memory < 1:
            raise SettingsError("memory must be at least 1")

    @override
    def accumulator(self, run: Run) -> Accumulator:
        wanted = [layer for layer in run.coverage.layers if _has_eigenvectors(layer)]
        return RecordingAccumulator(run, wanted, self.memory)

    @override
    def refine(self, run: Run, found: Estimate) -> Iterator[None]:
        todo = [
            layer
            for layer in run.coverage.layers
            if _has_eigenvectors(layer) and layer.name not in found.finished
        ]
        for layers, batches in recorded(run, found, todo, self.memory):
            self._refine(run, found, layers, batches)
            yield

    def _refine(
        self, run: Run, found: Estimate, layers: Sequence[Layer], batches: Records
    ) -> None:
        leaders = run.coverage.leaders
        blocks = {
            name: block
            for layer in layers
            for name, block in self.blocks(layer, leaders.get(layer, layer)).items()
        }
        names = [n for block in blocks.values() for n in block.factors[:2]]
        bases = _decompose(run, found, names)
        fits = {
            name: EigenvalueFit(
                name, bases[b.factors[1]], bases[b.factors[0]], shrinkage=self.shrinkage
            )
            for name, b in blocks.items()
        }
        look_until_done(run, fits, batches)
        for name, block in blocks.items():
            _, output, corrected = block.factors
            if run.workers.holds(output):
                found.factors[corrected] = Diagonal(fits[name].S.flatten())
            found.finish(name, block)

    @override
    def blocks(self, layer: Layer, leader: Layer) -> Mapping[str, Block]:
        found = layer.blocks(leader)
        if not _has_eigenvectors(layer):
            return found
        return {name: _eigen_block(name, block) for name, block in found.items()}

    @override
    def described(self, found: Estimate) -> NamedConfig:
        return NamedConfig(self.name, {"shrinkage": self.shrinkage})

    @override
    def settings(self) -> dict[str, Json]:
        return {k: v for k, v in super().settings().items() if k != "memory"}


def _has_eigenvectors(layer: Layer) -> bool:
    return isinstance(layer, KroneckerLayer) and not layer.has_diagonal_inputs


def _eigen_block(name: str, block: Block) -> Block:
    if not isinstance(block, KroneckerBlock):
        return block
    terms = ((*block.factors, f"{name}.S"),)
    return EigenBlock(block.weight, block.bias, block.layout, terms, block.part)


def _decompose(run: Run, found: Estimate, names: Iterable[str]) -> dict[str, LowRank]:
    """Decompose factors of KFAC; on every process, and all the same there."""
    workers, bases = run.workers, dict[str, LowRank]()
    for name in dict.fromkeys(names):
        source = workers.owners[name] if workers.sharded else 0
        own = None
        if workers.rank == source:
            own = found.factors.get(name) or _decomposed(found.start[name])
        bases[name] = _everywhere(run, own, source)
        found.start.pop(name, None)
        if workers.holds(name):
            found.factors[name] = bases[name]
    return bases


def _decomposed(factor: Factor) -> LowRank:
    matrix = factor.to_dense()
    return LowRank.of_dense(matrix, len(matrix), remainder=False)


def _everywhere(run: Run, own: Factor | None, source: int) -> LowRank:
    """The vectors of one process on all, as others may find other ones."""
    if run.workers.size == 1 and isinstance(own, LowRank):
        return own
    tensors = {} if own is None else own.tensors()
    return LowRank(**run.workers.broadcast(tensors, source))
