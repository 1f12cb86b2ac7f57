"""The plain module under what has been put around it, so that names are its own."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from kfac_artifacts.errors import CoverageError

WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
"""What runs a module in another way: its class, and where it keeps the module."""

_SPLIT = (
    "is split over processes by FSDP; give the whole module (compute splits it itself "
    "if told to shard)"
)
_MERGE = "merge it into the model with merge_and_unload(), or take it off with unload()"
REFUSED = {
    "ScriptModule": "is TorchScript, into which one cannot listen; give the module "
    "that it was made from",
    "FullyShardedDataParallel": _SPLIT,
    "FSDPModule": _SPLIT,
    "PeftModel": f"is a model with an adapter of peft; {_MERGE}",
    "BaseTunerLayer": f"holds an adapter of peft; {_MERGE}",
}
"""What is refused, by the class or one of its bases, and what to do."""


def plain(module: nn.Module) -> nn.Module:
    """Take off what compiles or replicates a module or parts of it.

    Args:
        module: Any module; it is left as it is.

    Returns:
        The module itself where nothing is around it or its parts; else the one that is
        inside, or one with the same parameters whose parts are those inside.

    Raises:
        CoverageError: If it has no parameter that could be fine-tuned, or is of a kind
            whose parameters are not those of a plain module.
    """
    for path, part in module.named_modules():
        for name in _bases(part):
            if name in REFUSED:
                raise CoverageError(f"{path or 'the model'} {REFUSED[name]}")
    if not any(p.is_floating_point() for p in module.parameters()):
        raise CoverageError(
            f"the model, a {type(module).__name__}, has no parameters of real numbers; "
            "is it quantised, or empty?"
        )
    return _plain(module, {})


def _plain(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in known:
        return known[module]
    inside = next((WRAPPERS[n] for n in _bases(module) if n in WRAPPERS), None)
    if inside is not None:
        found = _plain(getattr(module, inside), known)
    else:
        parts = {
            name: None if part is None else _plain(part, known)
            for name, part in module._modules.items()
        }
        found = module
        if any(part is not module._modules[name] for name, part in parts.items()):
            found = copy.copy(module)  # its parameters are the same objects
            found.__dict__["_modules"] = parts
    known[module] = found
    return found


def _bases(module: nn.Module) -> Iterator[str]:
    """Names of the classes that torch and peft give a module; of its own, none."""
    for base in type(module).__mro__:
        if base.__module__.split(".")[0] in {torch.__name__, "peft"}:
            yield base.__name__
