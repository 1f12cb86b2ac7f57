"""Parameters that no task vector can change, or not as the weights that they become."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from kfac_artifacts.errors import CoverageError

QUANTISED = {"Int8Params": "8-bit", "Params4bit": "4-bit"}
"""Parameters of bitsandbytes by class; some keep their bits in a floating type."""

CUT_GRADIENTS = ("torch.ao.nn.quantized.", "torch.nn.quantized.")
"""Packages of modules through which autograd does not see."""


def refusals(module: nn.Module) -> dict[str, str]:
    """Say which parameters that a module owns cannot be covered, and why.

    Args:
        module: Any module.

    Returns:
        Reasons by the parameters' names in the module.
    """
    own = dict(module.named_parameters(recurse=False))
    reason = _of_all(module, own)
    if reason is not None:
        return dict.fromkeys(own, reason)
    numbers = {name: p.dtype for name, p in own.items() if not p.is_floating_point()}
    return {
        name: f"a parameter of {kind} is not fine-tuned"
        for name, kind in numbers.items()
    }


def _of_all(module: nn.Module, own: Mapping[str, Tensor]) -> str | None:
    bits = [QUANTISED[k] for p in own.values() if (k := type(p).__name__) in QUANTISED]
    if bits:
        return (
            f"quantised weights (bitsandbytes {bits[0]}) cannot be fine-tuned; load "
            "the model unquantised"
        )
    if isinstance(module, ParametrizationList) or is_parametrized(module):
        return (
            "a weight is computed from others (torch.nn.utils.parametrize); make it a "
            "parameter again with remove_parametrizations"
        )
    if isinstance(module, nn.Linear) and "weight" not in own:
        return (
            "a weight is computed from others (weight or spectral norm); make it a "
            "parameter again with remove_weight_norm or remove_spectral_norm"
        )
    return None


def check_differentiable(module: nn.Module) -> None:
    """Refuse a network in which the gradient of f is not that which autograd finds.

    Args:
        module: The network.

    Raises:
        CoverageError: If a part of it lets no gradient pass.
    """
    for path, part in module.named_modules():
        kind = type(part)
        if f"{kind.__module__}.".startswith(CUT_GRADIENTS):
            raise CoverageError(
                f"{path or 'the model'} is a {kind.__module__}.{kind.__qualname__}, "
                "which lets no gradient pass; load the model unquantised"
            )
