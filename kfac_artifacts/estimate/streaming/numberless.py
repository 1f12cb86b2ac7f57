"""Passes without numbers: on the meta device shapes tell what depends on what."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from kfac_artifacts.network import Network

META = torch.device("meta")
WARNING = "warn_if_padding_and_no_attention_mask"
"""Method of transformers' models that reads token numbers."""


@contextmanager
def without_numbers(network: Network) -> Iterator[None]:
    """Let a network run on the meta device for a while, whatever is not there.

    Args:
        network: The network; left as it was found.

    Yields:
        Nothing.
    """
    f = network.output_map.apply
    modules = [network.module, *([f] if isinstance(f, nn.Module) else [])]
    with _on_meta(modules), _not_warning(network.module):
        yield


@contextmanager
def _not_warning(module: nn.Module) -> Iterator[None]:
    """Keep transformers from looking for padding among numbers that are not there."""
    parts = [part for part in module.modules() if hasattr(part, WARNING)]
    for part in parts:
        vars(part)[WARNING] = lambda *_: None
    try:
        yield
    finally:
        for part in parts:
            del vars(part)[WARNING]


@contextmanager
def _on_meta(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let all tensors of modules be without numbers for a while."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    for module in {part for each in modules for part in each.modules()}:
        for tensors in (module._parameters, module._buffers):
            held: dict[str, Any] = tensors
            for key, value in list(held.items()):
                if value is not None and value.device != META:
                    before.append((held, key, value))
                    other = value.detach().to(META)
                    real = isinstance(value, nn.Parameter)
                    held[key] = nn.Parameter(other, False) if real else other
    try:
        yield
    finally:
        for held, key, value in before:
            held[key] = value
