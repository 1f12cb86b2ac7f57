"""Running sums of outer products: what becomes A, B and the Gramians.

Sums are float32 whatever the network computes in, or float64 if it computes in that.
"""

from collections.abc import Callable, Mapping
from zlib import crc32

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kfac_artifacts.capture import FactorSum
from kfac_artifacts.errors import KfacError
from kfac_artifacts.symmetric import accumulation, add_outer, mirror
from kfac_artifacts.workers import Workers


class Sums:
    """Named sums, each on every process, or only on the process that owns it.

    Args:
        planned: Every sum by the name of its factor.
        like: A tensor of the device and the number type that the network computes in.
        workers: The processes that add to the sums.

    Attributes:
        planned: Shape of every sum, and what it is divided by.
        tensors: The sums that live here; of a matrix only the upper triangle counts.
        positions: How many rows this process has added to each.
    """

    def __init__(
        self, planned: Mapping[str, FactorSum], like: Tensor, workers: Workers
    ) -> None:
        self.planned = dict(planned)
        self._like = like.new_empty(0, dtype=accumulation(like.dtype))
        self._workers = workers
        self.tensors = {
            name: self._zeros(name) for name in planned if workers.holds(name)
        }
        self.positions = dict.fromkeys(planned, 0)
        self._sent: list[str] = []

    def add_outer(
        self, name: str, rows: Float[Tensor, "m d"], *, bias: bool = False
    ) -> None:
        """Add ``Σ r rᵀ`` over rows r; with a bias, of rows with a last entry 1."""
        rows = rows.to(self._like.dtype)

        def add(total: Tensor) -> None:
            d = rows.shape[1]
            add_outer(total[:d, :d], rows)
            if bias:
                total[:d, d] += rows.sum(0)
                total[d, d] += rows.shape[0]

        self._add(name, add, rows.shape[0])

    def add_counts(self, name: str, ids: Int[Tensor, " m"]) -> None:
        """Count row numbers; -1 is a position that belongs to no row."""

        def add(total: Tensor) -> None:
            total.index_add_(0, ids.clamp(min=0), (ids >= 0).to(total.dtype))

        self._add(name, add, len(ids))

    def add_values(self, name: str, values: Float[Tensor, " d"]) -> None:
        """Add numbers to a diagonal."""

        def add(total: Tensor) -> None:
            total += values

        self._add(name, add, 0)

    def restore(
        self, tensors: Mapping[str, Tensor], positions: Mapping[str, int]
    ) -> None:
        """Go on from sums that were saved."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.positions = dict(positions)

    def join(self) -> None:
        """Join the sums of all processes: once, at the end."""
        self._workers.all_reduce(self.tensors)
        counts = torch.tensor(
            list(self.positions.values()),
            dtype=torch.float64,
            device=self._like.device,
        )
        joined = self._workers.sum(counts).tolist()
        self.positions = dict(zip(self.positions, map(int, joined), strict=True))

    def check_order(self) -> None:
        """See to it that all processes have sent their parts in the same order.

        Raises:
            KfacError: If they have not: what was added up does not belong together.
        """
        sent = crc32("\n".join(self._sent).encode())
        if self._workers.sharded and len({*self._workers.all_of(sent)}) > 1:
            raise KfacError(
                "the model does not do the same in every process, so that its factors "
                "cannot be split over them; compute without --shard"
            )
        self._sent.clear()

    def take(self, name: str, weight: int) -> Tensor:
        """Give the mean, as a symmetric matrix or a diagonal, and forget the sum.

        Args:
            name: Of the sum.
            weight: What sums over examples are divided by.

        Returns:
            The mean.
        """
        over_positions = self.planned[name].over_positions
        divisor = self.positions[name] if over_positions else weight
        mean = self.tensors.pop(name).div_(max(divisor, 1))
        return mirror(mean) if mean.dim() == 2 else mean

    def _add(self, name: str, add: Callable[[Tensor], None], positions: int) -> None:
        self.positions[name] += positions
        if not self._workers.sharded:
            add(self.tensors[name])
            return
        self._sent.append(name)
        own = self._zeros(name)
        add(own)
        self._workers.reduce_to_owner(name, own)
        if name in self.tensors:
            self.tensors[name] += own

    def _zeros(self, name: str) -> Tensor:
        shape = self.planned[name].shape
        exact = torch.float64 if len(shape) == 1 else None  # counts of millions
        return self._like.new_zeros(shape, dtype=exact)
