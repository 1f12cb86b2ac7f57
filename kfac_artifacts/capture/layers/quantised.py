"""Quantised weights: which they are, and how gradients keep passing through them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

BITS = {"Int8Params": "8-bit", "Params4bit": "4-bit"}
"""Parameters of bitsandbytes by class; some keep their bits in a floating type."""

CUT_GRADIENTS = ("torch.ao.nn.quantized.", "torch.nn.quantized.")
"""Packages of modules through which autograd does not see."""

REPACKS = "support_avx512bf16_for_cpu"
"""Attribute of 4-bit layers that change their weights for inference on some CPUs."""


def bits(parameter: Tensor) -> str | None:
    """To how many bits bitsandbytes has quantised a parameter; None if it has not."""
    return BITS.get(type(parameter).__name__)


def lets_no_gradient_pass(module: nn.Module) -> bool:
    """Whether autograd does not see through a module."""
    packed = (
        getattr(getattr(p, "quant_state", None), "packing_format_for_cpu", False)
        for p in module.parameters(recurse=False)
    )
    return f"{type(module).__module__}.".startswith(CUT_GRADIENTS) or any(packed)


@contextmanager
def kept_for_gradients(module: nn.Module) -> Iterator[None]:
    """Keep 4-bit layers from changing into a form that lets no gradient pass.

    Args:
        module: A network; it is left as it was found.

    Yields:
        Nothing.
    """
    layers = [part for part in module.modules() if vars(part).get(REPACKS)]
    for layer in layers:
        setattr(layer, REPACKS, False)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, REPACKS, True)
