"""How several processes share one estimation: every process whole, or each a part.

Either way each sees its own examples. With every process whole, the network and all
sums are on each. Sharded, the network is split over them, and a factor lives on its
owner alone. One process alone is the first case.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from kfac_artifacts.artifact import Factors, HeldFactors
from kfac_artifacts.capture import Coverage
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import Factor
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.workers import Workers


class Whole:
    """Every process has the whole network and all factors.

    Attributes:
        network: What is computed with.
        workers: The processes.
    """

    def __init__(self, network: Network, workers: Workers) -> None:
        self.network = network
        self.workers = workers

    def assign_owners(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Give every sum an owner, by the shapes of all: here every process has all."""

    def placed(self, coverage: Coverage, batch: Batch) -> AbstractContextManager[None]:
        """Keep the network for a while where it is computed: here where it is.

        Args:
            coverage: What was proved of it.
            batch: Examples on which f must stay the same.

        Returns:
            What is entered for that time.
        """
        return nullcontext()

    def collect(self, own: Mapping[str, Factor]) -> Factors:
        """All factors, from those that live on this process: here all of them."""
        return HeldFactors(own)


def share_work(network: Network, examples: int, *, shard: bool) -> Whole:
    """Meet the other processes, if a launcher has started several.

    Args:
        network: The network.
        examples: How many examples there are to share.
        shard: Whether network and factors are to be split, if there are several.

    Returns:
        How the work is shared.

    Raises:
        SettingsError: If there are too few examples, or the network cannot be split.
    """
    workers = Workers.gather(network.device)
    if examples < workers.size:
        raise SettingsError(
            f"{examples} examples are too few for {workers.size} processes; each "
            "needs at least one"
        )
    if not shard or workers.size == 1:
        return Whole(network, workers)
    from kfac_artifacts.estimate.distributed.fsdp import (  # noqa: PLC0415 - takes long
        Sharded,
    )

    return Sharded(network, workers)
