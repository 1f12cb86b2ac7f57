"""Passes without numbers: on the meta device shapes tell what depends on what."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.kernels import forwards_replaced, holds_experts
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
    mixtures = [part for part in network.module.modules() if holds_experts(part)]
    routed = forwards_replaced({each: partial(_routed, each) for each in mixtures})
    with _on_meta(modules), _not_warning(network.module), routed:
        yield


def _routed(
    experts: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor, *_: Any
) -> Tensor:
    """As many experts for every token as there would be; numbers would tell which.

    Args:
        experts: A mixture: stacks ``[E, …, …]`` of what are applied one after another.
        x: Tokens, ``[T, d]``.
        chosen: Numbers of their K experts, ``[T, K]``.
        weights: What each counts.

    Returns:
        A tensor of the shape of x that depends on all of the mixture.
    """
    parameters = [*experts.parameters(recurse=False)]
    transposed = getattr(experts, "is_transposed", False)
    rows = x.flatten(0, -2).repeat_interleave(chosen.shape[-1], 0)
    for stack in parameters:
        if stack.dim() == 3:
            matrix = stack[0] if transposed else stack[0].mT
            rows = rows[:, : len(matrix)] @ matrix  # of gate and up one goes on
    rest = torch.stack([p.sum() for p in (*parameters, weights)]).sum()
    return rows.unflatten(0, (-1, chosen.shape[-1])).sum(1).view(x.shape) + rest


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
