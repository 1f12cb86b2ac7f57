"""Lists of modules, and what each member of them is given and gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass
class Call:
    """What a block was given and gave.

    Attributes:
        number: Of the block.
        hidden: The hidden state that it was given.
        others: What else it was given.
        output: What it gave.
    """

    number: int
    hidden: Tensor
    others: list[Any]
    output: Any

    @property
    def given(self) -> Tensor | None:
        """The hidden state that it gave."""
        first = self.output[0] if isinstance(self.output, tuple) else self.output
        return first if isinstance(first, Tensor) else None

    @property
    def besides(self) -> list[Any]:
        """What else it gave."""
        more = tree_leaves(self.output[1:]) if isinstance(self.output, tuple) else []
        return [each for each in more if each is not None]


@dataclass
class Blocks:
    """A list of modules, and the calls of them.

    Attributes:
        path: Of the list.
        blocks: Its members.
        calls: The calls, in order.
    """

    path: str
    blocks: Sequence[nn.Module]
    calls: list[Call] = field(default_factory=list)

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
            if not all(is_differentiable(each) for each in call.besides):
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


def lists_of(module: nn.Module) -> list[Blocks]:
    """All lists of modules in a module, its blocks among them if it has any."""
    return [
        Blocks(path, list(child))
        for path, child in module.named_modules()
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child)
    ]


@contextmanager
def listening(lists: Sequence[Blocks]) -> Iterator[None]:
    """Write down the calls of lists for a while."""

    def hook(each: Blocks, number: int) -> Any:
        def note(
            module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any
        ) -> None:
            hidden, again = split(args, kwargs)
            others = tree_leaves(again(torch.empty(0)))
            each.calls.append(Call(number, hidden, others, output))

        return note

    with ExitStack() as stack:
        for each in lists:
            for number, block in enumerate(each.blocks):
                handle = block.register_forward_hook(
                    hook(each, number), with_kwargs=True
                )
                stack.callback(handle.remove)
        yield


def is_differentiable(value: Any) -> bool:
    """Whether it is a tensor that gradients go through."""
    return isinstance(value, Tensor) and value.requires_grad
