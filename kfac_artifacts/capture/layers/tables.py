"""Tables of vectors, looked up by number: linear maps on one-hots."""

from collections.abc import Sequence
from functools import partial
from typing import final

from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import Layout
from kfac_artifacts.capture.layers.base import (
    KroneckerLayer,
    LayerCall,
    LayerSums,
    positions_of,
)
from kfac_artifacts.capture.layers.kinds import Found, Kind
from kfac_artifacts.capture.record import TableRecord


class RowsLayer(KroneckerLayer):
    """Rows that are looked up by number; -1 stands for a row without gradient."""

    has_diagonal_inputs = True
    looks_up = True
    layout = Layout.COLUMNS
    rows: int
    """How many rows there are."""

    @final
    @override
    def add_input(self, call: LayerCall, sums: LayerSums) -> None:
        sums.add_counts(self.input_factor, call.real(call.a))

    @override
    def add_cotangents(self, call: LayerCall, g: Tensor, sums: LayerSums) -> None:
        sums.add_rows(self.output_factor, call.real_of_all(g))

    @final
    @override
    def record(self, calls: Sequence[LayerCall], g: Tensor) -> TableRecord:
        a, real = positions_of(calls, g)
        if real is not None:
            g, a = g * real[:, None, :, None], a.masked_fill(real == 0, -1)
        return TableRecord(g, a, self.rows)


@final
class TableLayer(RowsLayer):
    """A table of vectors, as of tokens.

    Its inputs are the numbers, ``[N, P]``, with an axis of one feature until they are
    canonical.
    """

    keeps_inputs = True
    shows_rows = True
    unseen = "f does not look up its rows as they are"

    def __init__(
        self, name: str, parameters: dict[str, str], shape: tuple[int, int]
    ) -> None:
        super().__init__(name, parameters)
        self.rows, self.width = shape
        self._shared: dict[int, bool] = {}
        """Of every call with one row of numbers: whether all examples share it."""

    def spread(
        self, number: int, ids: Tensor, rows: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Give every example numbers and rows of its own where all share one.

        Args:
            number: How many look-ups came before in the forward pass.
            ids: What is looked up, ``[N, …]``, ``[1, T]`` or ``[T]``.
            rows: What is found, ``[…, D]``.
            count: N.

        Returns:
            ``[N, T]`` and ``[N, T, D]``, or both as they are.
        """
        if ids.dim() == 1:
            shared = self._shared.setdefault(number, len(ids) != count)
        else:
            shared = ids.dim() == 2 and len(ids) == 1
        if not shared:
            return ids, rows
        return ids.expand(count, -1), rows.expand(count, -1, -1)

    @override
    def stop_sharing(self) -> bool:
        changes = any(self._shared.values())
        self._shared = dict.fromkeys(self._shared, False)
        return changes

    @override
    def inputs(self, x: Tensor) -> Tensor:
        return x[..., None]

    @override
    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        real = (a >= 0)[..., None]
        table = g.new_zeros(g.shape[0], self.rows, self.width)
        index = a.clamp(min=0)[..., None].expand_as(g)
        return {"weight": table.scatter_add_(1, index, g * real).flatten(1)}

    @override
    def add_cotangents(self, call: LayerCall, g: Tensor, sums: LayerSums) -> None:
        super().add_cotangents(call, g * (call.a >= 0)[..., None], sums)


def table(module: nn.Module) -> Found:
    """Tables whose rows are looked up as they are."""
    if isinstance(module, nn.EmbeddingBag):
        return "an nn.EmbeddingBag: it gives sums of rows, not rows"
    if not isinstance(module, nn.Embedding):
        return None
    if module.max_norm is not None:
        return "a table with max_norm: reading it changes it"
    if module.scale_grad_by_freq:
        return "a table with scale_grad_by_freq: its gradient is not that of f"
    rows, width = module.weight.shape
    return Kind(partial(TableLayer, shape=(rows, width)))
