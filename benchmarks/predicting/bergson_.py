"""bergson: its covariances of KFAC, in memory; what it would write is not timed.

It draws labels by ``multinomial``, divides the loss of a text by the root of the number
of its labels, and keeps sums. Its A leaves out the last token of each text, which
nothing is predicted from, so that it is B alone that can be compared.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from bergson.collector.collector import CollectorComputer, fwd_bwd_hessian_factory
from bergson.config.config import HessianConfig, IndexConfig
from bergson.gradients import GradientProcessor
from bergson.hessians.kfac import CovarianceCollector
from datasets import Dataset
from torch import Tensor
from typing_extensions import override

from estimation.tool import Tool


class _InMemory(CovarianceCollector):
    """Keeps the matrices, and writes none."""

    def teardown(self) -> None:
        """Nothing is left to be done."""


class Bergson(Tool):
    """The model frozen but for the table of tokens, as its own commands have it."""

    def __init__(self, workload: Any) -> None:
        super().__init__(workload)
        workload.module.requires_grad_(requires_grad=False)
        workload.module.get_input_embeddings().requires_grad_(requires_grad=True)
        body = workload.module.base_model
        self._body = next(
            f"{path}." for path, part in workload.module.named_modules() if part is body
        )

    @override
    def estimate(self, count: int) -> _InMemory:
        return self._collect({"input_ids": self.workload.x[:count].tolist()})

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        x, labels = self.workload.x[:count], self.workload.labels(count)
        shifted = torch.cat(
            [x[:, :1], labels], 1
        )  # it predicts each from the one before
        rows = {"input_ids": x.tolist(), "labels": shifted.tolist()}
        sums = self._collect(rows).S_cov_dict
        return {f"{self._body}{name}.B": total / count for name, total in sums.items()}

    def _collect(self, rows: dict[str, Any]) -> _InMemory:
        case, module = self.workload.case, self.workload.module
        places = range(len(rows["input_ids"]))
        batches = [
            [*places[start : start + case.batch_size]]
            for start in range(0, len(places), case.batch_size)
        ]
        with tempfile.TemporaryDirectory() as place:
            run = str(Path(place) / "run")
            index = IndexConfig(run_path=run, loss_reduction="mean")
            index.partial_run_path.mkdir(parents=True)
            hessian = HessianConfig("kfac", use_dataset_labels="labels" in rows)
            found = _InMemory(
                model=module.base_model,
                processor=GradientProcessor(include_bias=False),
                dtype=torch.float32,
                path=place,
            )
            computer = CollectorComputer(
                model=module,
                data=Dataset.from_dict(rows),
                collector=found,
                batches=batches,
                cfg=index,
            )
            computer.forward_backward = fwd_bwd_hessian_factory(index, hessian)
            computer.run_with_collector_hooks()
        return found
