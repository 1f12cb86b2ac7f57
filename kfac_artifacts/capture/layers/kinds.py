"""What a rule of a layer family says of a module: how to make its layer, or why not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import nn

from kfac_artifacts.capture.layers.base import Layer

MAX_GRAMIAN = 8192
"""Largest parameter whose Gramian is kept whole: 128 MiB packed."""


@dataclass(frozen=True)
class Kind:
    """How to make the layer of a module.

    Attributes:
        make: From name and parameters (role to name) to the layer, or a reason.
        roles: The module's own name of a parameter to its role in the layer.
    """

    make: Callable[[str, dict[str, str]], Layer | str]
    roles: Mapping[str, str] = field(
        default_factory=lambda: {"weight": "weight", "bias": "bias"}
    )


Found: TypeAlias = Kind | str | None
"""A kind, or the reason why modules of it are not covered, or None for any other."""


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module computes what one of some classes does, not its own."""
    return any(type(module).forward is kind.forward for kind in kinds)
