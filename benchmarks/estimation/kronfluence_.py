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


class LinearMaps(Task):
    """Looks at some linear maps, whatever the loss is."""

    def __init__(self, linears: tuple[str, ...]) -> None:
        self._linears = linears

    @override
    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    @override
    def get_influence_tracked_modules(self) -> list[str]:
        return list(self._linears)


class _Cotangents(LinearMaps):
    """Pulls back what comes with the examples."""

    @override
    def compute_train_loss(
        self, batch: Any, model: nn.Module, sample: bool = False
    ) -> Tensor:
        x, s = batch
        return (model(x) * s).sum()


class Covariances(Tool):
    """Its covariances of what a loss gives; no AMP, float32 sums.

    Args:
        workload: What to work on.
        model: The model.
        task: Its linear maps and its loss.
    """

    def __init__(self, workload: Any, model: nn.Module, task: LinearMaps) -> None:
        super().__init__(workload)
        self._task, self._model = task, prepare_model(model, task)
        self._state = State(cpu=not workload.case.device.startswith("cuda"))

    def fit(self, dataset: TensorDataset) -> dict[str, dict[str, Tensor]]:
        """Sum up over a dataset."""
        _, found = fit_covariance_matrices_with_loader(
            model=self._model,
            state=self._state,
            task=self._task,
            loader=DataLoader(dataset, batch_size=self.workload.case.batch_size),
            factor_args=FactorArguments(strategy="kfac"),
            disable_tqdm=True,
        )
        return found

    def means(
        self, sums: dict[str, dict[str, Tensor]], count: int
    ) -> dict[str, Tensor]:
        """Its sums over so many examples as ``Tool.factors`` gives them."""
        positions = sums["num_activation_covariance_processed"]
        found = {}
        with torch.no_grad():
            for module in self.workload.linears:
                A = sums["activation_covariance"][module]
                found[f"{module}.A"] = A / positions[module]
                found[f"{module}.B"] = sums["gradient_covariance"][module] / count
        return found


class Kronfluence(Covariances):
    """Linear layers with joint biases, one draw."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, workload.f, _Cotangents(workload.linears))
        self._cotangents = workload.cotangents(workload.case.examples)

    @override
    def estimate(self, count: int) -> dict[str, dict[str, Tensor]]:
        x, s = self.workload.x[:count], self._cotangents[:count]
        return self.fit(TensorDataset(x, s))

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        return self.means(self.estimate(count), count)
