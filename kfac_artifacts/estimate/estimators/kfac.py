"""KFAC (Martens & Grosse 2015) with shared weights: expand and reduce.

Eschenhagen et al. 2023 tell them apart by what they do with the positions that share a
weight; ``accumulator`` has the formulas.
"""

from dataclasses import dataclass
from typing import final

from typing_extensions import override

from kfac_artifacts.capture import Run
from kfac_artifacts.estimate.accumulator import Accumulator, ReducingAccumulator
from kfac_artifacts.estimate.estimators.base import Cost, Estimator
from kfac_artifacts.estimate.estimators.hiding import HidingEstimator
from kfac_artifacts.estimate.private.accumulator import PrivateAccumulator


@final
@dataclass(frozen=True)
class Kfac(HidingEstimator):
    """KFAC-expand, as in TAK: every position counts for itself."""

    name = "kfac"
    takes_means = True
    curvlinops = "expand"

    @override
    def accumulator(self, run: Run) -> Accumulator:
        if self.noise is not None:
            return PrivateAccumulator(run, self.noise)
        return Accumulator(run)


@final
@dataclass(frozen=True)
class KfacReduce(Estimator):
    """KFAC-reduce: positions of an example are summed up first."""

    name = "kfac-reduce"
    cost = Cost(reduced=True)
    curvlinops = "reduce"

    @override
    def accumulator(self, run: Run) -> Accumulator:
        return ReducingAccumulator(run)
