"""kronfluence: its covariance matrices, with its defaults and in memory.

It takes the gradient of a loss that the user writes; ``(f · s).sum()`` makes that
gradient the cotangent s, the same that this package draws. It keeps sums.
"""

from typing import Any

import torch
from kronfluence import Task, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.factor.covariance import fit_covariance_matrices_with_loader
from kronfluence.utils.state import State
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from estimation.models import Workload
from estimation.tool import Tool


class _Cotangents(Task):
    """Pulls back what comes with the examples."""

    def __init__(self, linears: tuple[str, ...]) -> None:
        self._linears = linears

    @override
    def compute_train_loss(
        self, batch: Any, model: nn.Module, sample: bool = False
    ) -> Tensor:
        x, s = batch
        return (model(x) * s).sum()

    @override
    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    @override
    def get_influence_tracked_modules(self) -> list[str]:
        return list(self._linears)


class Kronfluence(Tool):
    """Linear layers with joint biases, one draw; no AMP, float32 sums."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._task = _Cotangents(workload.linears)
        self._cotangents = workload.cotangents(workload.case.examples)
        self._model = prepare_model(workload.f, self._task)
        self._state = State(cpu=not workload.case.device.startswith("cuda"))

    @override
    def estimate(self, count: int) -> dict[str, dict[str, Tensor]]:
        dataset = TensorDataset(self.workload.x[:count], self._cotangents[:count])
        _, found = fit_covariance_matrices_with_loader(
            model=self._model,
            state=self._state,
            task=self._task,
            loader=DataLoader(dataset, batch_size=self.workload.case.batch_size),
            factor_args=FactorArguments(strategy="kfac"),
            disable_tqdm=True,
        )
        return found

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        sums = self.estimate(count)
        positions = sums["num_activation_covariance_processed"]
        found = {}
        with torch.no_grad():
            for module in self.workload.linears:
                A = sums["activation_covariance"][module]
                found[f"{module}.A"] = A / positions[module]
                found[f"{module}.B"] = sums["gradient_covariance"][module] / count
        return found
