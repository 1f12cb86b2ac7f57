"""The inputs of linear maps alone: forward passes, and no curvature of f."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from typing_extensions import override

from kfac_artifacts.artifact import Block, Cotangents, InputsBlock, KroneckerBlock
from kfac_artifacts.capture import Coverage, FactorSum, Layer, Run
from kfac_artifacts.choices import NO_COTANGENTS
from kfac_artifacts.estimate.accumulator import Accumulator
from kfac_artifacts.estimate.estimators.base import Cost, Shapes
from kfac_artifacts.estimate.estimators.hiding import HidingEstimator
from kfac_artifacts.estimate.private.accumulator import PrivateAccumulator

NO_INPUTS = "it is no linear map, and the estimator inputs is of inputs alone"


@final
@dataclass(frozen=True)
class Inputs(HidingEstimator):
    """A of KFAC alone: ``E ‖W a‖²`` in place of how far f moves.

    It is what editing (MEMIT, AlphaEdit), quantisation (GPTQ, QuIP#), merging (RegMean)
    and initialisation (CorDA) take, and a penalty against forgetting with B = I.
    """

    name = "inputs"
    cost = Cost(forward_only=True)
    takes_means = True

    @override
    def reason_against(self, layer: Layer) -> str | None:
        return NO_INPUTS if layer.has_gramian else super().reason_against(layer)

    @override
    def cotangents(self, wanted: Cotangents) -> Cotangents:
        return Cotangents(NO_COTANGENTS, None, wanted.seed)

    @override
    def planned_sums(self, coverage: Coverage, shapes: Shapes) -> dict[str, FactorSum]:
        planned = super().planned_sums(coverage, shapes)
        return {name: each for name, each in planned.items() if each.over_positions}

    @override
    def summed_blocks(self, layer: Layer, leader: Layer) -> Mapping[str, Block]:
        return {n: _of_inputs(b) for n, b in layer.blocks(leader).items()}

    @override
    def accumulator(self, run: Run) -> Accumulator:
        planned = self.planned_sums(run.coverage, run.network.shapes)
        if self.noise is not None:
            return PrivateAccumulator(run, self.noise, planned, forward_only=True)
        return Accumulator(run, planned, forward_only=True)


def _of_inputs(block: Block) -> Block:
    if not isinstance(block, KroneckerBlock):
        return block
    terms = (block.inputs,)
    found = InputsBlock(block.weight, block.bias, block.layout, terms, block.part)
    return replace(found, constant=block.constant)
