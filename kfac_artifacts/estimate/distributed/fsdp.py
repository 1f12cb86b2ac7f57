"""Weights split over processes (FSDP) for the time of an estimation.

A copy of the network, whose modules are its own and whose parameters are the same
objects, is inventoried and proved while it is whole. Then its blocks are split: each is
whole only while it runs. Meanwhile the network itself is empty; at the end it is filled
again from the copy, so that nothing of what FSDP does to modules stays in it.
"""

import atexit
import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._redistribute import (
    _gen_transform_infos,
    clear_redistribute_planner_cache,
)
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from typing_extensions import override

from kfac_artifacts.artifact import Factors
from kfac_artifacts.capture import Coverage
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.distributed.owned_factors import OwnedFactors
from kfac_artifacts.estimate.distributed.sharing import Whole
from kfac_artifacts.factors import Factor
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.torch_private import pytree
from kfac_artifacts.workers import Workers

REPEATED = (nn.ModuleList, nn.Sequential)


class Sharded(Whole):
    """The network is split over the processes, and so are the factors."""

    def __init__(self, network: Network, workers: Workers) -> None:
        super().__init__(_with_own_modules(network), workers)
        atexit.register(_forget_group)
        self._original = network

    @override
    def assign_owners(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.workers = self.workers.assign_owners(shapes)

    @override
    def placed(self, coverage: Coverage, batch: Batch) -> AbstractContextManager[None]:
        return _split_up(self._original, self.network, coverage, batch, self.workers)

    @override
    def collect(self, own: Mapping[str, Factor]) -> Factors:
        return OwnedFactors(own, self.workers)


def _forget_group() -> None:
    """Clear what torch remembers: the group must be gone when the interpreter ends."""
    clear_redistribute_planner_cache()
    _gen_transform_infos.cache_clear()
    _clear_sharding_prop_cache()


def _with_own_modules(network: Network) -> Network:
    """Copy the modules of a network, but none of its parameters and buffers.

    Args:
        network: The network.

    Returns:
        A network with modules of its own and the parameters of the other.

    Raises:
        SettingsError: If its modules cannot be copied.
    """
    tensors = [*network.module.parameters(), *network.module.buffers()]
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    try:
        module = copy.deepcopy(network.module, shared)
    except (TypeError, RuntimeError) as error:
        raise SettingsError(
            f"the modules of {network.id} cannot be copied ({error}), which sharding "
            "needs; compute without it"
        ) from error
    return Network(module, network.output_map, network.id, network.revision)


@contextmanager
def _split_up(
    network: Network,
    copied: Network,
    coverage: Coverage,
    batch: Batch,
    workers: Workers,
) -> Iterator[None]:
    """Split the blocks of such a copy over the processes for a while.

    Args:
        network: The network; empty inside, and whole again afterwards, unless an error
            ends the block: then other processes may be gone, and it stays empty.
        copied: Its copy, of ``_with_own_modules``.
        coverage: What was proved of the copy.
        batch: Examples on which f must be the same as before.
        workers: All processes, which call this together.

    Yields:
        Nothing.

    Raises:
        SettingsError: If the network cannot be computed in this form.
    """
    before = dict(network.module.named_parameters())
    with torch.no_grad():
        f, units = _observe(copied, batch)
        _split(units, _whole(units, copied, coverage), workers)
        split = [n for n, p in copied.parameters().items() if isinstance(p, DTensor)]
        for name in split:
            before[name].data = before[name].data.new_empty(0)
        with workers.together():
            failure = _failure(copied, batch, f)
        if failure is not None:
            _fill(before, copied, split)
            raise SettingsError(
                f"{network.id} cannot be computed with its blocks split over processes "
                f"({failure}); compute without sharding"
            )
    yield
    with torch.no_grad():
        _fill(before, copied, split)


def _observe(network: Network, batch: Batch) -> tuple[Tensor, list[nn.Module]]:
    """Evaluate f, and find what can be split: modules that are called by themselves."""
    called: set[nn.Module] = set()
    with ExitStack() as stack:
        for module in network.module.modules():
            handle = module.register_forward_pre_hook(lambda m, _: called.add(m))
            stack.callback(handle.remove)
        f = network(batch)
    return f, list(dict.fromkeys(_units(network.module, called)))


def _units(module: nn.Module, called: Set[nn.Module]) -> Iterator[nn.Module]:
    """Blocks that are repeated, whole; outside of them single layers with a matrix."""
    for child in module.children():
        single = not any(child.children())
        if child in called and (single or isinstance(module, REPEATED)):
            if any(p.dim() > 1 for p in child.parameters()):
                yield child
        else:
            yield from _units(child, called)


def _whole(
    units: list[nn.Module], network: Network, coverage: Coverage
) -> set[nn.Parameter]:
    """Find the parameters that are not split.

    Args:
        units: Modules to split.
        network: The network that they are parts of.
        coverage: What was proved of it.

    Returns:
        Shared parameters, those that are read outside of their modules, and vectors:
        they are small, and the gradients of norms are made from them at any time.
    """
    inside = {module for unit in units for module in unit.modules()}
    places = [list(unit.parameters()) for unit in units]
    places += [
        list(module.parameters(recurse=False))
        for module in network.module.modules()
        if module not in inside
    ]
    uses = Counter(parameter for place in places for parameter in place)
    parameters = network.parameters()
    read = {
        parameters[name]
        for layer in coverage.layers
        if layer.reads_parameters
        for name in layer.parameters.values()
    }
    return read | {
        p
        for p in parameters.values()
        if uses[p] != 1 or p.dim() < 2 or not p.is_floating_point()
    }


def _split(units: list[nn.Module], whole: set[nn.Parameter], workers: Workers) -> None:
    kind = torch.device(workers.device).type
    mesh = init_device_mesh(kind, (workers.size,))
    for unit in units:
        if not whole.issuperset(unit.parameters()):
            unit.register_forward_hook(_detach_views)
            fully_shard(
                unit, mesh=mesh, reshard_after_forward=True, ignored_params=whole
            )


def _detach_views(module: nn.Module, args: Any, output: Any) -> Any:
    """Copy views: were one changed in place, FSDP would not hear of its gradient."""
    return pytree.tree_map_only(
        Tensor, lambda x: x.clone() if x._is_view() else x, output
    )


def _failure(network: Network, batch: Batch, f: Tensor) -> str | None:
    """Say why f is not what it was, if so."""
    try:
        found = network(batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model may raise anything
        return f"{type(error).__name__}: {error}"
    same = torch.allclose(found, f, rtol=1e-3, atol=1e-5)
    return None if same else "its output is another"


def _fill(before: dict[str, nn.Parameter], copied: Network, split: list[str]) -> None:
    """Put the numbers of split parameters back to where they were."""
    parameters = copied.parameters()
    for name in split:
        parameter = parameters[name]
        assert isinstance(parameter, DTensor)  # noqa: S101 - narrows
        before[name].data = parameter.full_tensor()
