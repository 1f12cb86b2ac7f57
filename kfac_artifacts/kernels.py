"""Choosing kernels that derivatives pass through, for a while and in one network.

Fused kernels are fast, but many have no forward-mode rule, or take few number types and
shapes only. Attention is then computed as plain products, and the experts of a mixture
one by one, as the class of the model has it, whatever its configuration names.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def forward_mode_kernels() -> Iterator[None]:
    """Select attention kernels that have a forward-mode rule; fused ones have none."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def uncompiled() -> AbstractContextManager[Any]:
    """Run what ``torch.compile`` has compiled as it was written, for a while."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing takes long
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def running_experts_one_by_one(module: nn.Module) -> Iterator[None]:
    """Let every expert be applied by itself, whatever implementation is configured.

    Args:
        module: A network; it is left as it was found.

    Yields:
        Nothing.
    """
    plain = {
        part: partial(type(part).forward.__wrapped__, part)  # type: ignore[attr-defined]
        for part in module.modules()
        if holds_experts(part) and "forward" not in vars(part)
    }
    with forwards_replaced(plain):
        yield


def holds_experts(module: nn.Module) -> bool:
    """Whether transformers' decorator of expert classes made the module's class."""
    decorated = hasattr(type(module).forward, "__wrapped__")
    return (
        decorated and hasattr(module, "has_gate") and hasattr(module, "is_transposed")
    )


@contextmanager
def forwards_replaced(
    forwards: Mapping[nn.Module, Callable[..., Any]],
) -> Iterator[None]:
    """Let modules run other functions than their forward passes.

    Args:
        forwards: What each module runs.

    Yields:
        Nothing; the modules are left as they were found.
    """
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, own in before.items():
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own
