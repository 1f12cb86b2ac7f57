"""Rows of a table, seen where they are looked up.

A module may look up other rows than its input names (positions behind an offset) and
scale or normalise what it finds. So not its input and output are listened to, but the
look-up itself, inside of its forward pass: then A holds how often each row is read, and
a scale behind the look-up is in the cotangents, and with them in B.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode

from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.layers.tables import TableLayer
from kfac_artifacts.kernels import forwards_replaced

SELECTIONS = (torch.index_select, Tensor.index_select)
Report = Callable[[TableLayer, Tensor, Tensor], Tensor]
"""Told of a table, numbers of rows and these rows; gives the rows back."""


@contextmanager
def listening_to_lookups(layers: Sequence[Layer], report: Report) -> Iterator[None]:
    """Listen to every look-up in the tables among some layers for a while.

    Args:
        layers: The layers; those that are no tables are left alone.
        report: Told of every look-up; what it returns takes the place of the rows.

    Yields:
        Nothing; the modules are left as they were found.
    """
    tables = [(s, m) for s in layers if isinstance(s, TableLayer) for m in s.modules]
    with forwards_replaced(
        {m: partial(_run_listening, m, m.forward, layer, report) for layer, m in tables}
    ):
        yield


def _run_listening(
    module: nn.Module,
    run: Callable[..., Any],
    layer: TableLayer,
    report: Report,
    *args: Any,
    **kwargs: Any,
) -> Any:
    table = module.get_parameter("weight")  # one that is sharded is whole only now
    with _LookupListener(table, partial(report, layer)):
        return run(*args, **kwargs)


class _LookupListener(TorchFunctionMode):
    """Reports look-ups in a table: by function, by index, or a range of rows."""

    def __init__(
        self, table: Tensor, report: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self._table, self._report = table, report

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do what is asked, and report it."""
        kwargs = kwargs or {}
        rows = func(*args, **kwargs)
        numbers = self._numbers(func, args, kwargs)
        if numbers is None or rows.shape != (*numbers.shape, self._table.shape[1]):
            return rows
        return self._report(numbers, rows)

    def _numbers(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        """Which rows were looked up, -1 for one without gradient; None if none were."""
        ours = next((i for i, x in enumerate(args) if x is self._table), None)
        if func is embedding and ours == 1:  # it gives names to all other arguments
            padding = kwargs["padding_idx"]
            if padding is None:
                return args[0]
            return args[0].masked_fill(args[0] == padding % len(self._table), -1)
        rows = torch.arange(len(self._table), device=self._table.device)
        if func in SELECTIONS and ours == 0:
            return torch.index_select(rows, *args[1:], **kwargs)
        if func is Tensor.__getitem__ and ours == 0 and not isinstance(args[1], tuple):
            return rows[args[1]]
        return None
