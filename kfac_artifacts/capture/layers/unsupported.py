"""Parameters that no task vector can change, or not as the weights that they become."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from kfac_artifacts.capture.layers.quantised import bits, lets_no_gradient_pass
from kfac_artifacts.errors import CoverageError


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
    whole = {name: p.dtype for name, p in own.items() if not p.is_floating_point()}
    empty = [name for name, p in own.items() if not p.numel()]
    return {
        **dict.fromkeys(empty, "a parameter without numbers"),
        **{n: f"a parameter of {kind} is not fine-tuned" for n, kind in whole.items()},
    }


def _of_all(module: nn.Module, own: Mapping[str, Tensor]) -> str | None:
    quantised = [found for p in own.values() if (found := bits(p)) is not None]
    if quantised:
        return (
            f"quantised weights (bitsandbytes {quantised[0]}) cannot be fine-tuned; "
            "load the model unquantised"
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
        if lets_no_gradient_pass(part):
            raise CoverageError(
                f"{path or 'the model'} is a {kind.__module__}.{kind.__qualname__}, "
                "and lets no gradient pass as it is; load the model unquantised"
            )
