"""The chain of blocks of a network: found by a pass without numbers.

Streaming is right only where nothing goes past the hidden state from one block to the
next. So a pass on the meta device shows that every block is called once, that each is
given just what the one before it gave, that f depends on nothing else that blocks give,
such as attention, and that nothing else that blocks are given, and nothing beside what
the last one gives, depends on weights of another part.
"""

from collections.abc import Callable, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from kfac_artifacts.capture import requiring_gradients
from kfac_artifacts.errors import KfacError, ModelError, SettingsError, first_line
from kfac_artifacts.estimate.streaming.calls import (
    Blocks,
    is_differentiable,
    listening,
    lists_of,
    split,
)
from kfac_artifacts.estimate.streaming.numberless import META, without_numbers
from kfac_artifacts.kernels import forwards_replaced
from kfac_artifacts.network import Batch, Network

ALTOGETHER = "compute without --stream (load_network)"
Forward: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Chain:
    """Blocks that are called one after another, hidden state in, hidden state out.

    Attributes:
        path: Of the list that holds them.
        blocks: The blocks.
        lengths: How many members the output of each has, the first of them the hidden
            state, the others what nobody takes; 0 where it is the hidden state itself.
        before: Parameters that the hidden state before the first one depends on.
        after: Parameters that f depends on besides, for a given last hidden state.
        inside: Parameters of every block.
    """

    path: str
    blocks: tuple[nn.Module, ...]
    lengths: tuple[int, ...]
    before: frozenset[str]
    after: frozenset[str]
    inside: tuple[frozenset[str], ...]

    def given(self, number: int, hidden: Tensor) -> Any:
        """A hidden state as a block gives it."""
        length = self.lengths[number]
        return (hidden, *[None] * (length - 1)) if length else hidden


def find_chain(network: Network, batch: Batch) -> Chain:
    """Find the blocks of a network, and prove that they can be streamed.

    Args:
        network: The network, its parameters on the meta device.
        batch: Two examples.

    Returns:
        The chain.

    Raises:
        SettingsError: If it has none, more goes past the hidden state, or the model
            cannot be run without numbers.
        KfacError: Whatever else was raised on purpose meanwhile.
    """
    bare = Network(network.module, network.output_map, network.id)
    masks = {name for name in batch if name.endswith("attention_mask")}
    shapes = {n: v.to(META) for n, v in batch.items() if n not in masks}
    try:
        with without_numbers(bare), requiring_gradients(bare, wanted=True):
            return _find(bare, shapes)
    except KfacError as error:
        if isinstance(error, ModelError):
            cause = error.__cause__
            told = cause if isinstance(cause, Exception) else error
            raise SettingsError(_without_numbers(network, told)) from error
        raise
    except Exception as error:  # a model may raise anything on tensors without numbers
        raise SettingsError(_without_numbers(network, error)) from error


def _without_numbers(network: Network, error: Exception) -> str:
    return (
        f"{network.id} ({type(network.module).__name__}) cannot be streamed block by "
        f"block: a pass without numbers failed ({type(error).__name__}: "
        f"{first_line(error)}); {ALTOGETHER}"
    )


def _find(network: Network, batch: Batch) -> Chain:
    lists = lists_of(network.module)
    with listening(lists), torch.enable_grad():
        network(batch)
    found = _longest(network, lists)
    count = len(next(iter(batch.values())))
    if any(len(call.hidden) != count for call in found.calls):
        _refuse(network, f"the first axis of what {found.path}.0 is given is no batch")
    inside = _inside(network, found)
    outside = network.parameters().keys() - frozenset[str]().union(*inside)
    _require_nothing_given(network, found)
    _require_nothing_taken(network, found, batch)
    before = _reached(network, found.calls[0].hidden, outside)
    outputs = [call.output for call in found.calls]
    lengths = [len(o) if isinstance(o, tuple) else 0 for o in outputs]
    chain = Chain(
        found.path,
        tuple(found.blocks),
        tuple(lengths),
        before,
        frozenset(),
        tuple(inside),
    )
    last = outputs[-1][0] if lengths[-1] else outputs[-1]
    end = standing_in(chain, lambda _: last.detach())
    with forwards_replaced(end), torch.enable_grad():
        f = network(batch)
    after = _reached(network, f, network.parameters().keys())
    if not after <= outside:
        _refuse(network, f"f uses {min(after - outside)} outside of its block")
    others = [each for each in lists if each is not found and each.calls]
    _require_one_chain(network, found, others)
    return Chain(chain.path, chain.blocks, chain.lengths, before, after, tuple(inside))


def standing_in(
    chain: Chain, last: Callable[[Tensor], Tensor]
) -> dict[nn.Module, Forward]:
    """Forward passes that stand for all blocks: each passes on what it is given.

    Args:
        chain: The chain.
        last: What the last one gives in place of what it is given.

    Returns:
        The forward pass of every block.
    """
    end = len(chain.blocks) - 1
    return {
        block: partial(_pass_on, chain, number, last if number == end else _same)
        for number, block in enumerate(chain.blocks)
    }


def _pass_on(
    chain: Chain,
    number: int,
    change: Callable[[Tensor], Tensor],
    *args: Any,
    **kwargs: Any,
) -> Any:
    return chain.given(number, change(split(args, kwargs)[0]))


def _same(hidden: Tensor) -> Tensor:
    return hidden


def _longest(network: Network, lists: Sequence[Blocks]) -> Blocks:
    called = sorted((x for x in lists if x.calls), key=lambda x: -x.size)
    if not called:
        _refuse(network, "it has no list of blocks that f depends on")
    good = [each for each in called if each.fault() is None]
    if not good or 2 * good[0].size < called[0].size:
        first = called[0]
        _refuse(network, f"of {first.path}, {first.fault()}")
    return good[0]


def _inside(network: Network, found: Blocks) -> list[frozenset[str]]:
    """Names of the parameters of every block, which nothing else may hold."""
    names = {id(p): name for name, p in network.parameters().items()}
    inside = [frozenset(names[id(p)] for p in b.parameters()) for b in found.blocks]
    for number, block in enumerate(found.blocks):
        path = f"{found.path}.{number}."
        shared = [names[id(p)] for p in block.parameters()]
        foreign = [name for name in shared if not name.startswith(path)]
        if foreign:
            _refuse(network, f"{path[:-1]} shares {foreign[0]} with another part")
    return inside


def _require_nothing_given(network: Network, found: Blocks) -> None:
    """Refuse blocks whose other arguments depend on weights."""
    for call in found.calls:
        if any(is_differentiable(each) for each in call.others):
            _refuse(
                network,
                f"{found.path}.{call.number} is given more that depends on weights "
                "than a hidden state, such as relative positions",
            )


def _require_nothing_taken(network: Network, found: Blocks, batch: Batch) -> None:
    """Refuse blocks of which f takes more than the hidden state."""
    if not any(call.besides for call in found.calls):
        return
    marks: dict[int, list[Tensor]] = {}
    with ExitStack() as stack:
        for call in found.calls:
            if call.besides:
                hook = partial(_mark, marks, call.number)
                block = found.blocks[call.number]
                stack.callback(block.register_forward_hook(hook).remove)
        with torch.enable_grad():
            f = network(batch)
    for number, own in marks.items():
        if any(g is not None for g in _gradients(f, own)):
            _refuse(
                network, f"f takes more of {found.path}.{number} than a hidden state"
            )


def _mark(
    marks: dict[int, list[Tensor]], number: int, _: nn.Module, args: Any, output: Any
) -> Any:
    """Cut what a block gives besides its hidden state off from what it is made of."""
    hidden, *more = output
    cut = tree_map(lambda x: None if x is None else x.detach().requires_grad_(), more)
    marks[number] = [each for each in tree_leaves(cut) if each is not None]
    return (hidden, *cut)


def _require_one_chain(
    network: Network, found: Blocks, others: Sequence[Blocks]
) -> None:
    block = max(sum(p.numel() for p in b.parameters()) for b in found.blocks)
    for other in others:
        inside = other.path.startswith(f"{found.path}.")
        around = found.path.startswith(f"{other.path}.")
        if not inside and not around and other.size > block:
            _refuse(
                network,
                f"it has two lists of blocks, {found.path} and {other.path}",
            )


def _reached(network: Network, f: Tensor, names: Set[str]) -> frozenset[str]:
    """Names of the parameters that a tensor depends on."""
    parameters = {n: p for n, p in network.parameters().items() if n in names}
    wanted = {n: p for n, p in parameters.items() if p.requires_grad}
    if not f.requires_grad or not wanted:
        return frozenset()
    found = _gradients(f, list(wanted.values()))
    return frozenset(n for n, g in zip(wanted, found, strict=True) if g is not None)


def _gradients(f: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients without numbers; None of what f does not depend on."""
    ones = torch.ones_like(f)
    return torch.autograd.grad(f, inputs, ones, retain_graph=True, allow_unused=True)


def _refuse(network: Network, reason: str) -> Any:
    kind = type(network.module).__name__
    raise SettingsError(
        f"{network.id} ({kind}) cannot be streamed block by block: {reason}; "
        f"{ALTOGETHER}"
    )
