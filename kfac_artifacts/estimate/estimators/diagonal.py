"""The diagonal of the Gramian: TAK's weaker baseline, and of the kin of imatrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from typing_extensions import override

from kfac_artifacts.artifact import Block, DiagonalBlock, KroneckerBlock, NamedConfig
from kfac_artifacts.capture import Coverage, FactorSum, KroneckerLayer, Layer, Run
from kfac_artifacts.estimate.accumulator import Accumulator
from kfac_artifacts.estimate.estimators.base import Estimator, Shapes
from kfac_artifacts.estimate.squares import SquaringAccumulator, squares_of


@final
@dataclass(frozen=True)
class DiagonalGramian(Estimator):
    """``E[M²]`` of the gradient M of every example: nothing between two weights."""

    name = "diagonal"

    @override
    def planned_sums(self, coverage: Coverage, shapes: Shapes) -> dict[str, FactorSum]:
        return {
            name: FactorSum((dim,))
            for layer in coverage.layers
            for block in self.summed_blocks(layer, layer).values()
            for name, dim in block.sizes(shapes)
        }

    @override
    def accumulator(self, run: Run) -> Accumulator:
        planned = self.planned_sums(run.coverage, run.network.shapes)
        return SquaringAccumulator(run, planned)

    @override
    def summed_blocks(self, layer: Layer, leader: Layer) -> Mapping[str, Block]:
        found = layer.blocks(layer)
        if not isinstance(layer, KroneckerLayer):
            return found
        terms = ((squares_of(layer),),)
        return {name: _of_diagonal(block, terms) for name, block in found.items()}

    @override
    def structures(self, block: Block, shapes: Shapes) -> dict[str, NamedConfig]:
        return dict.fromkeys(block.factors, NamedConfig("diagonal"))


def _of_diagonal(block: Block, terms: tuple[tuple[str, ...], ...]) -> Block:
    if not isinstance(block, KroneckerBlock):
        return block
    return DiagonalBlock(block.weight, block.bias, block.layout, terms, block.part)
