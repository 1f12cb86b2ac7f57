"""From the factors of KFAC to the nearest products: looks at the data, group by group.

Power iterations look at every example several times. As many blocks as fit into memory
form a group, whose records are kept from one pass; a block too large for that is
recorded again for every look.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TypeAlias, final

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Block, Json, NamedConfig
from kfac_artifacts.capture import KroneckerLayer, Layer, Run
from kfac_artifacts.choices import KEPT_BYTES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.accumulator import Accumulator, factor_sums
from kfac_artifacts.estimate.estimators.base import Cost, Estimate, Estimator
from kfac_artifacts.estimate.estimators.nearest_fit import Fit
from kfac_artifacts.estimate.estimators.nearest_guarded import GuardedFit
from kfac_artifacts.estimate.estimators.nearest_power import PowerOptions
from kfac_artifacts.estimate.recording import (
    RecordingAccumulator,
    look_until_done,
    recorded,
)
from kfac_artifacts.factors import Factor

AnyFit: TypeAlias = Fit | GuardedFit

FLOAT = 4
"""Bytes of a number of the sums; float64 is for tests."""
FEWEST_TO_SPREAD = 4
"""Examples that show how far examples differ."""


@final
@dataclass(frozen=True)
class Nearest(Estimator):
    """The nearest Kronecker products in the Frobenius norm, found from those of KFAC.

    Attributes:
        terms: Products per block.
        shrinkage: Whether it guards against learning the noise of examples.
        max_sweeps: Sweeps over the data after which it stops in any case; a single
            term that is guarded takes one.
        memory: Bytes of activations that may be kept at once; what does not fit is
            computed again, which changes no factor.
    """

    name = "nearest"
    cost = Cost(recorded=True, uncounted="its iterations")

    terms: int = 1
    shrinkage: bool = True
    max_sweeps: int = 6
    memory: int = KEPT_BYTES

    @override
    def check(self, examples: int) -> None:
        if self.terms < 1 or self.max_sweeps < 1 or self.memory < 1:
            raise SettingsError("terms, sweeps and memory must be at least 1")
        if self.shrinkage and examples < FEWEST_TO_SPREAD:
            raise SettingsError(
                f"{examples} examples do not show how far examples differ; give at "
                f"least {FEWEST_TO_SPREAD}, or switch the shrinkage of nearest off"
            )

    @override
    def accumulator(self, run: Run) -> Accumulator:
        wanted = [x for x in run.coverage.layers if isinstance(x, KroneckerLayer)]
        return RecordingAccumulator(run, wanted, self.memory)

    @override
    def refine(self, run: Run, found: Estimate) -> Iterator[None]:
        todo = [
            layer
            for layer in run.coverage.layers
            if isinstance(layer, KroneckerLayer) and layer.name not in found.finished
        ]
        bearable = partial(_bearable, run, self)
        for layers, batches in recorded(run, found, todo, self.memory, bearable):
            fits = {
                layer.name: self._fit(_start(run, found.start, layer))
                for layer in layers
            }
            look_until_done(run, fits, batches)
            for layer in layers:
                for name, block in self.blocks(layer, layer).items():
                    _keep(run, found, name, block, fits[name])
            yield

    def _fit(self, start: tuple[Tensor, Tensor]) -> AnyFit:
        if self.shrinkage and self.terms == 1:
            return GuardedFit(start)
        return Fit(start, PowerOptions(self.terms, self.shrinkage, self.max_sweeps))

    @override
    def blocks(self, layer: Layer, leader: Layer) -> Mapping[str, Block]:
        found = layer.blocks(layer)  # no input factor is shared
        if not isinstance(layer, KroneckerLayer):
            return found
        suffixes = ["", *(f".{number}" for number in range(1, self.terms))]
        pair = layer.input_factor, layer.output_factor
        names = [name + suffix for suffix in suffixes for name in pair]
        return {name: block.with_factors(names) for name, block in found.items()}

    @override
    def described(self, found: Estimate) -> NamedConfig:
        how = {"terms": self.terms, "shrinkage": self.shrinkage}
        return NamedConfig(self.name, {**how, "sweeps": found.sweeps})

    @override
    def settings(self) -> dict[str, Json]:
        return {k: v for k, v in super().settings().items() if k != "memory"}


def _bearable(
    run: Run, estimator: Nearest, todo: Sequence[KroneckerLayer]
) -> Sequence[KroneckerLayer]:
    """If sharded, the first layers whose own matrices fit into memory; at least one."""
    if not run.workers.sharded:
        return todo
    sums = factor_sums(run.coverage, run.network.shapes)
    size, bearable = 0, list[KroneckerLayer]()
    for layer in todo:
        pair = sum(prod(sums[name].shape) for name in _shared_names(run, layer))
        size += pair * (1 + 4 * estimator.terms) * FLOAT
        if bearable and size > estimator.memory:
            break
        bearable.append(layer)
    return bearable


def _start(
    run: Run, start: Mapping[str, Factor], layer: KroneckerLayer
) -> tuple[Tensor, Tensor]:
    """A and B of KFAC, on every process."""
    names = _shared_names(run, layer)
    A, B = (run.workers.broadcast_factor(name, start.get(name)) for name in names)
    return _tensor(A), _tensor(B)


def _shared_names(run: Run, layer: KroneckerLayer) -> tuple[str, ...]:
    """The factors of KFAC, of which A may be another layer's."""
    (block,) = layer.blocks(run.coverage.leaders.get(layer, layer)).values()
    return block.factors


def _tensor(factor: Factor) -> Tensor:
    (tensor,) = factor.tensors().values()
    return tensor


def _keep(run: Run, found: Estimate, name: str, block: Block, fit: AnyFit) -> None:
    """Put what a fit has found in the place of the factors of KFAC."""
    _, output, *_ = block.factors
    if run.workers.holds(output):
        factors = (factor for pair in fit.terms() for factor in pair)
        found.factors |= zip(block.factors, factors, strict=True)
    found.finish(name, block)
    found.sweeps = max(found.sweeps, int(fit.sweeps))
