"""kronfluence: its covariance matrices, with its defaults and in memory.

Its users write the loss, and draw labels for the Fisher as here: by ``multinomial``.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from typing_extensions import override

from estimation.kronfluence_ import Covariances, LinearMaps


class _NextTokens(LinearMaps):
    """Cross entropy of labels, divided by the root of their number."""

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


class Kronfluence(Covariances):
    """All linear maps but the head."""

    def __init__(self, workload: Any) -> None:
        super().__init__(workload, workload.module, _NextTokens(workload.linears))

    @override
    def estimate(self, count: int) -> Any:
        return self.fit(TensorDataset(self.workload.x[:count]))

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        labels = self.workload.labels(count)
        rows = TensorDataset(self.workload.x[:count], labels)
        return self.means(self.fit(rows), count)
