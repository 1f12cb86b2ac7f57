"""curvlinops: its KFAC operator, without the checks that double its time.

Its loss is a sum of squares, of Hessian 2 I, and its B a sum over examples. For the
comparison of values its labels are such that the gradient of that loss is this
package's cotangent: ``d/df (f - y)² = s`` for ``y = f - s/2``.
"""

import torch
from curvlinops import KFACLinearOperator
from torch import Tensor, nn
from typing_extensions import override

from estimation.models import Workload
from estimation.tool import Tool


class Curvlinops(Tool):
    """Linear layers with joint biases, KFAC-expand, one draw."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._width = workload.cotangents(1).shape[1]

    @override
    def estimate(self, count: int) -> KFACLinearOperator:
        sizes = [len(x) for x in self.workload.batches(count)]
        labels = [torch.zeros(size, self._width) for size in sizes]
        return self._operator("mc", labels, count)

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        batch_size = self.workload.case.batch_size
        cotangents = self.workload.cotangents(count).split(batch_size)
        labels = []
        for x, s in zip(self.workload.batches(count), cotangents, strict=True):
            with torch.no_grad():
                labels.append(self.workload.f(x).cpu() - s / 2)
        operator = self._operator("empirical", labels, count)
        found = {}
        for module in self.workload.linears:
            found[f"{module}.A"] = operator._input_covariances[module]
            found[f"{module}.B"] = operator._gradient_covariances[module] / count
        return found

    def _operator(
        self, kind: str, labels: list[Tensor], count: int
    ) -> KFACLinearOperator:
        device = self.workload.case.device
        modules = map(self.workload.f.get_submodule, self.workload.linears)
        batches = self.workload.batches(count)
        operator = KFACLinearOperator(
            self.workload.f,
            nn.MSELoss(reduction="sum"),
            [p for module in modules for p in module.parameters()],
            [(x, y.to(device)) for x, y in zip(batches, labels, strict=True)],
            fisher_type=kind,
            mc_samples=1,
            kfac_approx="expand",
            separate_weight_and_bias=False,
            check_deterministic=False,
            num_data=count,
            num_per_example_loss_terms=1,
        )
        operator.compute_kronecker_factors()
        return operator
