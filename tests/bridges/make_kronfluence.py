"""Makes ``files/kronfluence``: factors by kronfluence 1.0.1, with and without λ.

It needs the library (``pip install --no-deps kronfluence==1.0.1``):

    python -m tests.bridges.make_kronfluence
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from kronfluence import Analyzer, Task, prepare_model  # type: ignore[import-not-found]
from kronfluence.arguments import FactorArguments  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from tests.bridges.made import FILES, Readout, readout_inputs

KEPT = ("covariance", "eigen", "lambda_matrix", "num_lambda", "factor_arguments")


class Sum(Task):  # type: ignore[misc]
    """The loss is f itself, so that what is pulled back is the one cotangent."""

    @override
    def compute_train_loss(
        self, batch: Any, model: nn.Module, sample: bool = False
    ) -> Tensor:
        return model(batch[0]).sum()

    @override
    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)


def main() -> None:
    """Fit covariances, and with the strategy ekfac all other factors."""
    data = TensorDataset(readout_inputs())
    for strategy in ("kfac", "ekfac"):
        task = Sum()
        with tempfile.TemporaryDirectory() as folder:
            model = prepare_model(Readout(), task)
            analyzer = Analyzer(strategy, model, task, cpu=True, output_dir=folder)
            arguments = FactorArguments(strategy=strategy)
            fit = (
                analyzer.fit_all_factors
                if strategy == "ekfac"
                else analyzer.fit_covariance_matrices
            )
            fit("all", data, per_device_batch_size=3, factor_args=arguments)
            made, place = Path(folder) / strategy / "factors_all", FILES / "kronfluence"
            (place / strategy).mkdir(parents=True, exist_ok=True)
            for file in made.iterdir():
                if any(word in file.name for word in KEPT):
                    shutil.copy(file, place / strategy / file.name)


if __name__ == "__main__":
    main()
