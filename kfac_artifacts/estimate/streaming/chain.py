"""The chain of blocks of a network: found by a pass without numbers.

Streaming is right only where nothing goes past the hidden state from one block to the
next. So a pass on the meta device shows that every block is called once, that each is
given just what the one before it gave, and that nothing else that blocks are given, and
nothing beside what the last one gives, depends on weights of another part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kfac_artifacts.capture import requiring_gradients
from kfac_artifacts.errors import KfacError, SettingsError, first_line
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
            state, the others None; 0 where it is the hidden state itself.
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


@dataclass
class _Call:
    """What a block was given and gave, other than its hidden state."""

    number: int
    hidden: Tensor
    others: list[Any]
    output: Any

    @property
    def given(self) -> Tensor | None:
        """The hidden state that it gave."""
        first = self.output[0] if isinstance(self.output, tuple) else self.output
        return first if isinstance(first, Tensor) else None


@dataclass
class _List:
    """A list of modules, and the calls of them."""

    path: str
    blocks: Sequence[nn.Module]
    calls: list[_Call] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for block in self.blocks for p in block.parameters())

    def fault(self) -> str | None:
        """Say why it is no chain, if so."""
        order = [call.number for call in self.calls]
        if order != list(range(len(self.blocks))):
            return "its members are not called once each, in order"
        for call in self.calls:
            if call.given is None:
                return f"{self.path}.{call.number} gives no hidden state first"
            if isinstance(call.output, tuple) and any(
                other is not None for other in call.output[1:]
            ):
                return f"{self.path}.{call.number} gives more than a hidden state"
        for one, other in zip(self.calls, self.calls[1:], strict=False):
            if one.given is not other.hidden:
                return (
                    f"{self.path}.{other.number} is not given what {self.path}."
                    f"{one.number} gives"
                )
        return None


def split(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Tell the hidden state from the other arguments of a block.

    Args:
        args: The arguments by place.
        kwargs: Those by name.

    Returns:
        The hidden state, and what makes arguments with another one.
    """
    if args:
        return args[0], lambda hidden: ((hidden, *args[1:]), dict(kwargs))
    name = next(n for n, value in kwargs.items() if isinstance(value, Tensor))
    return kwargs[name], lambda hidden: ((), {**kwargs, name: hidden})


def find_chain(network: Network, batch: Batch) -> Chain:
    """Find the blocks of a network, and prove that they can be streamed.

    Args:
        network: The network, its parameters on the meta device.
        batch: Two examples.

    Returns:
        The chain.

    Raises:
        SettingsError: If it has none, or more goes past the hidden state.
        KfacError: Whatever else was raised on purpose meanwhile.
    """
    bare = Network(network.module, network.output_map, network.id)
    shapes = {n: v.to(META) for n, v in batch.items() if n != "attention_mask"}
    try:
        with without_numbers(bare), requiring_gradients(bare, wanted=True):
            return _find(bare, shapes)
    except KfacError:
        raise
    except Exception as error:  # a model may raise anything on tensors without numbers
        raise SettingsError(
            f"{network.id} cannot be streamed: a pass without numbers failed "
            f"({type(error).__name__}: {first_line(error)}); {ALTOGETHER}"
        ) from error


def _find(network: Network, batch: Batch) -> Chain:
    lists = _lists(network.module)
    with _listening(lists), torch.enable_grad():
        network(batch)
    found = _longest(network, lists)
    count = len(next(iter(batch.values())))
    if any(len(call.hidden) != count for call in found.calls):
        _refuse(network, f"the first axis of what {found.path}.0 is given is no batch")
    inside = _inside(network, found)
    outside = network.parameters().keys() - frozenset[str]().union(*inside)
    _require_nothing_else(network, found)
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


def _lists(module: nn.Module) -> list[_List]:
    return [
        _List(path, list(child))
        for path, child in module.named_modules()
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child)
    ]


@contextmanager
def _listening(lists: Sequence[_List]) -> Iterator[None]:
    def hook(each: _List, number: int) -> Any:
        def note(
            module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any
        ) -> None:
            hidden, again = split(args, kwargs)
            others = tree_leaves(again(torch.empty(0)))
            each.calls.append(_Call(number, hidden, others, output))

        return note

    with ExitStack() as stack:
        for each in lists:
            for number, block in enumerate(each.blocks):
                handle = block.register_forward_hook(
                    hook(each, number), with_kwargs=True
                )
                stack.callback(handle.remove)
        yield


def _longest(network: Network, lists: Sequence[_List]) -> _List:
    called = sorted((x for x in lists if x.calls), key=lambda x: -x.size)
    if not called:
        _refuse(network, "it has no list of blocks that f depends on")
    good = [each for each in called if each.fault() is None]
    if not good or 2 * good[0].size < called[0].size:
        first = called[0]
        _refuse(network, f"of {first.path}, {first.fault()}")
    return good[0]


def _inside(network: Network, found: _List) -> list[frozenset[str]]:
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


def _require_nothing_else(network: Network, found: _List) -> None:
    """Refuse blocks whose other arguments depend on weights."""
    for call in found.calls:
        if any(isinstance(x, Tensor) and x.requires_grad for x in call.others):
            _refuse(
                network,
                f"{found.path}.{call.number} is given more that depends on weights "
                "than a hidden state, such as relative positions",
            )


def _require_one_chain(network: Network, found: _List, others: Sequence[_List]) -> None:
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
    found = torch.autograd.grad(
        f,
        list(wanted.values()),
        torch.ones_like(f),
        retain_graph=True,
        allow_unused=True,
    )
    return frozenset(n for n, g in zip(wanted, found, strict=True) if g is not None)


def _refuse(network: Network, reason: str) -> Any:
    kind = type(network.module).__name__
    raise SettingsError(
        f"{network.id} ({kind}) cannot be streamed block by block: {reason}; "
        f"{ALTOGETHER}"
    )
