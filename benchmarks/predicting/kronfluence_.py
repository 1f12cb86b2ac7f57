"""kronfluence: its covariance matrices, with its defaults and in memory.

Its users write the loss, and draw labels for the Fisher as here: by ``multinomial``.
"""

import math
from typing import Any

import torch
from kronfluence import Task, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.factor.covariance import fit_covariance_matrices_with_loader
from kronfluence.utils.state import State
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from estimation.tool import Tool


class _NextTokens(Task):
    """Cross entropy of labels, divided by the root of their number."""

    def __init__(self, linears: tuple[str, ...]) -> None:
        self._linears = linears

    @override
    def compute_train_loss(
        self, batch: Any, model: nn.Module, sample: bool = False
    ) -> Tensor:
        x, *given = batch
        logits = model(input_ids=x, use_cache=False).logits[:, :-1].flatten(0, 1)
        if given:
            labels = given[0].flatten()
        else:
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(-1), 1).flatten()
        summed = cross_entropy(logits, labels, reduction="sum")
        return summed / math.sqrt(x.shape[1] - 1)

    @override
    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    @override
    def get_influence_tracked_modules(self) -> list[str]:
        return list(self._linears)


class Kronfluence(Tool):
    """No AMP, float32 sums."""

    def __init__(self, workload: Any) -> None:
        super().__init__(workload)
        self._task = _NextTokens(workload.linears)
        self._model = prepare_model(workload.module, self._task)
        self._state = State(cpu=True)

    @override
    def estimate(self, count: int) -> Any:
        return self._fit(TensorDataset(self.workload.x[:count]))

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        labels = self.workload.labels(count)
        sums = self._fit(TensorDataset(self.workload.x[:count], labels))
        positions = sums["num_activation_covariance_processed"]
        found = {}
        for module in self.workload.linears:
            A = sums["activation_covariance"][module]
            found[f"{module}.A"] = A / positions[module]
            found[f"{module}.B"] = sums["gradient_covariance"][module] / count
        return found

    def _fit(self, dataset: TensorDataset) -> Any:
        _, found = fit_covariance_matrices_with_loader(
            model=self._model,
            state=self._state,
            task=self._task,
            loader=DataLoader(dataset, batch_size=self.workload.case.batch_size),
            factor_args=FactorArguments(strategy="kfac"),
            disable_tqdm=True,
        )
        return found
