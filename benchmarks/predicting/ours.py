"""This package: ``kfac_artifacts.estimate.compute``, what ``kfac compute`` calls."""

from torch import Tensor
from typing_extensions import override

from estimation.ours import factors_of
from estimation.tool import Tool
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.estimate import Estimator, Inputs, Kfac, compute
from kfac_artifacts.network import Network, TensorExamples
from predicting.models import DRAWN


class Ours(Tool):
    """A and B of ``lm-fisher``, by labels that the model draws."""

    estimator: Estimator = Kfac()

    @override
    def estimate(self, count: int) -> Artifact:
        known = self.workload.network
        return compute(
            Network(known.module, known.output_map, known.id),  # hashes anew
            TensorExamples({"input_ids": self.workload.x[:count]}, "random tokens"),
            count=count,
            cotangents=DRAWN,
            estimator=self.estimator,
            only=tuple(f"{name}.weight" for name in self.workload.linears),
            allow_few=True,
            batch_size=self.workload.case.batch_size,
        )

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        return factors_of(self.estimate(count), self.workload.linears)


class OurInputs(Ours):
    """A alone."""

    estimator = Inputs()
