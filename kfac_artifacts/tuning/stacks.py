"""Factors of one shape, multiplied at once: a model has many of each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.factors import Factor

Fields: TypeAlias = Mapping[str, Tensor]


def _dense(own: Fields, x: Tensor) -> Tensor:
    return (x.mT @ own["matrix"]).mT  # it is symmetric, and its rows are in memory


def _diagonal(own: Fields, x: Tensor) -> Tensor:
    return own["values"][..., None] * x


def _low_rank(own: Fields, x: Tensor) -> Tensor:
    V = own["vectors"]
    found = V.mT @ (own["values"][..., None] * (V @ x))
    return found + own["diagonal"][..., None] * x if "diagonal" in own else found


_TOGETHER: Mapping[str, Callable[[Fields, Tensor], Tensor]] = {
    "dense": _dense,
    "diagonal": _diagonal,
    "low_rank": _low_rank,
}
"""How factors of a structure multiply when their fields are stacked."""


class Stack(ABC):
    """m factors, each of which multiplies its own ``x``."""

    @abstractmethod
    def matmul(self, x: Float[Tensor, "m d n"]) -> Float[Tensor, "m d n"]:
        """Multiply factor by factor."""


@final
@dataclass(frozen=True, eq=False)
class _Together(Stack):
    multiply: Callable[[Fields, Tensor], Tensor]
    fields: Fields

    @override
    def matmul(self, x: Float[Tensor, "m d n"]) -> Float[Tensor, "m d n"]:
        return self.multiply(self.fields, x)


@final
@dataclass(frozen=True, eq=False)
class _OneByOne(Stack):
    factors: Sequence[Factor]

    @override
    def matmul(self, x: Float[Tensor, "m d n"]) -> Float[Tensor, "m d n"]:
        pairs = zip(self.factors, x, strict=True)
        return torch.stack([factor.matmul(own) for factor, own in pairs])


def likeness(factor: Factor) -> Hashable:
    """What two factors share that can be stacked.

    Args:
        factor: A factor.

    Returns:
        Its structure, shapes, number type and device.
    """
    parts = tuple((n, t.shape, t.dtype, t.device) for n, t in factor.tensors().items())
    return factor.name, parts


def stack(factors: Sequence[Factor]) -> Stack:
    """Put factors together that are alike.

    Those that are kept as int8, and structures whose products are sparse, stay as they
    are: they would have to be written out for it.

    Args:
        factors: At least one; all alike.

    Returns:
        The stack; of a single factor it holds that factor's own memory.
    """
    kept = [factor.fields() for factor in factors]
    plain = all(isinstance(x, Tensor | None) for own in kept for x in own.values())
    multiply = _TOGETHER.get(factors[0].name)
    if multiply is None or not plain:
        return _OneByOne(tuple(factors))
    fields = {
        name: joined([own[name] for own in kept])  # type: ignore[misc]
        for name, first in kept[0].items()
        if first is not None
    }
    return _Together(multiply, fields)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors; a single one is not copied."""
    return torch.stack([*tensors]) if len(tensors) > 1 else tensors[0][None]
