"""A part of a network as a network: what is before the blocks, a block, what is behind.

The model's own forward pass is run each time, so that positions, masks and whatever
else blocks are given are its own. Only what is not of the part stands in: blocks pass
on what they are given, and weights before them are zeros, since nobody looks at what
they make.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.capture import Sample
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.streaming.calls import split
from kfac_artifacts.estimate.streaming.chain import ALTOGETHER, Chain, standing_in
from kfac_artifacts.estimate.streaming.network import StreamedNetwork
from kfac_artifacts.estimate.streaming.states import States
from kfac_artifacts.kernels import forwards_replaced
from kfac_artifacts.network import Batch, Network, OutputMap

ENTRY = "hidden state before this part"
"""Member of a part's batch: what the part before it gives, ``[N, …]``."""


class _ReachedError(Exception):
    """Ends a forward pass where a part ends."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(eq=False)
class Part(Network):
    """A part of a network, whose f is the hidden state behind it, ``[N, T · D]``.

    Attributes:
        whole: The network.
        chain: Its blocks.
        number: Which part: 0 is what is before the blocks, then they come, then what
            is behind them, whose f is that of the network.
    """

    whole: StreamedNetwork = field(kw_only=True)
    chain: Chain = field(kw_only=True)
    number: int = field(kw_only=True)
    _last: Tensor | None = field(default=None, init=False)

    @property
    @override
    def device(self) -> torch.device:
        return self.whole.place

    @property
    def is_first(self) -> bool:
        """Whether it is what is before the blocks."""
        return self.number == 0

    @property
    def is_last(self) -> bool:
        """Whether it is what is behind the blocks."""
        return self.number > len(self.chain.blocks)

    @property
    def title(self) -> str:
        """What to call it while showing progress."""
        count = len(self.chain.blocks)
        if self.is_first:
            return "before the blocks"
        return "behind the blocks" if self.is_last else f"block {self.number}/{count}"

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the parameters that it needs."""
        if self.is_first:
            return self.chain.before
        return self.chain.after if self.is_last else self.chain.inside[self.number - 1]

    @property
    def hidden(self) -> Tensor:
        """The hidden state that it gave last."""
        assert self._last is not None  # noqa: S101 - it is asked for after a pass
        return self._last

    @contextmanager
    @override
    def _evaluating(self) -> Iterator[None]:
        """Nothing: all parts are switched together, which takes long in a large one."""
        yield

    def holding(self) -> Any:
        """Have its weights in memory for a while."""
        inside = frozenset[str]().union(*self.chain.inside)
        return self.whole.holding(self.names, self.whole.parameters().keys() - inside)

    def apply(self, module: nn.Module, batch: Batch) -> Tensor:
        """Run the network from where the part begins to where it ends."""
        inputs = {name: value for name, value in batch.items() if name != ENTRY}
        with forwards_replaced(self._forwards(batch.get(ENTRY))):
            try:
                return self.whole.output_map.apply(module, inputs)
            except _ReachedError as reached:
                self._last = reached.hidden.detach()
                self._require_plain(reached.hidden)
                return reached.hidden.flatten(1)

    def _forwards(self, entry: Tensor | None) -> Mapping[nn.Module, Any]:
        blocks = self.chain.blocks
        # what a batch holds stays as it is, whatever is done in place
        forwards = standing_in(
            self.chain, lambda hidden: hidden if entry is None else entry.clone()
        )
        if self.is_first:
            forwards[blocks[0]] = _end
        elif not self.is_last and entry is not None:
            block = blocks[self.number - 1]
            own = vars(block).get("forward") or partial(type(block).forward, block)
            forwards[block] = partial(_run, own, entry)
        return forwards

    def _require_plain(self, hidden: Tensor) -> None:
        if hidden.dtype != self.dtype:
            kinds = [str(t).removeprefix("torch.") for t in (hidden.dtype, self.dtype)]
            raise SettingsError(
                f"{self.id} cannot be streamed: its hidden states are {kinds[0]}, "
                f"although its weights are {kinds[1]}; {ALTOGETHER}"
            )


def _end(*args: Any, **kwargs: Any) -> Any:
    raise _ReachedError(split(args, kwargs)[0])


def _run(own: Any, entry: Tensor, *args: Any, **kwargs: Any) -> Any:
    _, again = split(args, kwargs)
    args, kwargs = again(entry.clone())
    output = own(*args, **kwargs)
    raise _ReachedError(output[0] if isinstance(output, tuple) else output)


def parts_of(network: StreamedNetwork, chain: Chain) -> list[Part]:
    """Cut a network into its parts.

    Args:
        network: The network.
        chain: Its blocks.

    Returns:
        What is before the blocks, every block, and what is behind them.
    """
    f = network.output_map
    parts = []
    for number in range(len(chain.blocks) + 2):
        part = Part(
            network.module,
            f,
            network.id,
            network.revision,
            whole=network,
            chain=chain,
            number=number,
        )
        inner = OutputMap(f.info, part.apply, f.reads_padding)
        part.output_map = replace(f, apply=part.apply) if part.is_last else inner
        parts.append(part)
    return parts


@dataclass(frozen=True)
class PartSample(Sample):
    """A sample as a part sees it.

    Attributes:
        entries: What the part before it gives for each batch; None for the first.
        pulled: The gradients of what it gives; None for the last part, whose cotangents
            are those of f.
        differentiated: Whether the gradients of the entries are wanted.
    """

    entries: States | None = None
    pulled: States | None = None
    differentiated: bool = False

    @override
    def count(self, ordinals: Sequence[int], f: Tensor) -> int:
        if self.pulled is None:
            return super().count(ordinals, f)
        return self.pulled.count(ordinals[0])

    @override
    def vectors(self, ordinals: Sequence[int], f: Tensor) -> Any:
        if self.pulled is None:
            yield from super().vectors(ordinals, f)
            return
        for number in range(self.pulled.count(ordinals[0])):
            yield self.pulled.get(ordinals[0], number).flatten(1).to(f)

    @override
    def _encode(self, ordinals: Sequence[int]) -> Batch:
        batch = super()._encode(ordinals)
        if self.entries is None:
            return batch
        entry = self.entries.get(ordinals[0])
        return {**batch, ENTRY: entry.requires_grad_(self.differentiated)}
