"""What is asked of an estimation, and by what it is told from another one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from kfac_artifacts.artifact import BaseModel, Cotangents, Json, Source
from kfac_artifacts.capture import Inventory, take_inventory
from kfac_artifacts.estimate.estimators.base import Estimator
from kfac_artifacts.estimate.options import ComputeOptions
from kfac_artifacts.network import Examples, Network
from kfac_artifacts.progress import Progress
from kfac_artifacts.workers import Workers


@dataclass(frozen=True)
class Asked:
    """What is asked for; see ``compute``.

    Attributes:
        examples: The data.
        indices: Numbers of the chosen examples.
        cotangents: What is wanted to be pulled back.
        estimator: How the Gramian is approximated.
        only: Patterns of parameter names to cover.
        exclude: Patterns of parameter names to leave out.
        tables: Whether tables are covered.
        means: Whether means of inputs are kept.
        batch_size: Examples per pass, at most.
        options: Checkpoints, and how several processes share the work.
        progress: Shows how far each stage is.
    """

    examples: Examples
    indices: Sequence[int]
    cotangents: Cotangents
    estimator: Estimator
    only: Sequence[str]
    exclude: Sequence[str]
    tables: bool
    means: bool
    batch_size: int
    options: ComputeOptions
    progress: Progress

    def take_inventory(self, module: nn.Module) -> Inventory:
        """Find the layers of a module that are asked for; nothing is proved yet."""
        found = take_inventory(
            module,
            only=tuple(self.only),
            exclude=tuple(self.exclude),
            tables=self.tables,
            forward_only=self.estimator.cost.forward_only,
        )
        return self.estimator.narrowed(found, means=self.means)

    @property
    def pulled(self) -> Cotangents:
        """What is pulled back."""
        return self.estimator.cotangents(self.cotangents)

    @property
    def source(self) -> Source:
        """What is told of the data."""
        return Source(self.examples.info(self.indices), self.pulled)

    def settings(
        self, base: BaseModel, network: Network, source: Source, workers: Workers
    ) -> Mapping[str, Json]:
        """Say what must be the same for a checkpoint to be gone on from."""
        return {
            "base": base.sha256,
            "dtype": str(network.dtype),
            "output_map": asdict(network.output_map.info),
            "source": asdict(source),
            "estimator": self.estimator.settings(),
            "processes": workers.size,
            "sharded": workers.sharded,
            "means": self.means,
            "order": "longest first",
        }
