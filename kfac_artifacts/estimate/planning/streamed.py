"""What streaming would take, part by part, from shapes as all that is planned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NoReturn, final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from kfac_artifacts.capture import requiring_gradients
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.planning.cost import Flops, Memory, memory
from kfac_artifacts.estimate.planning.forecast import Plan
from kfac_artifacts.estimate.planning.trace import KeptTensors, Trace
from kfac_artifacts.estimate.streaming.chain import find_chain
from kfac_artifacts.estimate.streaming.network import StreamedNetwork
from kfac_artifacts.estimate.streaming.numberless import META, without_numbers
from kfac_artifacts.estimate.streaming.part import ENTRY, Part, parts_of
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.torch_private import storage_id

PROOF_READINGS = 2
"""How often weights are read for the proof: forward, and back."""


@dataclass(frozen=True)
class StreamedPlan:
    """What streaming would take.

    Attributes:
        parts: Number of parts: the blocks, and what is before and behind them.
        largest: The part that takes most memory.
        memory: Bytes of memory that it takes.
        states: Bytes of hidden states, and of their gradients, that are kept at once.
        factors: Bytes of the factors that are kept before the artifact is written.
        readings: How often all weights are read.
        flops: Operations per example, with passes that are made again; None if not
            known.
    """

    parts: int
    largest: str
    memory: Memory
    states: int
    factors: int
    readings: int
    flops: Flops | None


@dataclass(frozen=True)
class _Seen:
    """A part as a pass shows it, per example.

    Attributes:
        part: The part.
        activations: Bytes kept for the backward pass.
        hidden: Bytes of the hidden state before it.
    """

    part: Part
    activations: int
    hidden: int


def plan_streamed(network: Network, batch: Batch, whole: Plan) -> StreamedPlan:
    """Find what ``compute`` would take of a ``StreamedNetwork``.

    Args:
        network: The network, on the meta device.
        batch: Two or more examples of the length or size that is to be expected.
        whole: Its plan without streaming.

    Returns:
        The plan.

    Raises:
        SettingsError: If it cannot be streamed.
    """
    if network.device != META:
        raise SettingsError(
            f"{network.id} has its weights in memory already; only a checkpoint of "
            "transformers can be streamed"
        )
    streamed = StreamedNetwork(
        network.module,
        network.output_map,
        network.id,
        network.revision,
        weights=_NoWeights(),
        place=META,
    )
    parts = parts_of(streamed, find_chain(network, batch))
    with streamed.evaluating():
        seen = _see(parts, batch)
    effort, cost = whole.effort, whole.effort.estimator.cost
    back = not cost.forward_only
    needs = [_memory(each, whole) for each in seen]
    largest = max(range(len(seen)), key=lambda number: needs[number].peak)
    hidden = [each.hidden for each in seen]
    flops = whole.flops
    if flops is not None and back:
        flops = replace(flops, forward=2 * flops.forward)
    return StreamedPlan(
        parts=len(seen),
        largest=seen[largest].part.title,
        memory=needs[largest],
        states=effort.examples * _kept(hidden, effort.passes if back else 0),
        factors=whole.memory.sums,
        readings=PROOF_READINGS + 1 + back,
        flops=flops,
    )


@final
class _NoWeights:
    """Weights of a plan, which nobody reads."""

    def read(self, name: str) -> NoReturn:
        """Refuse to."""
        raise NotImplementedError(name)


def _see(parts: Sequence[Part], batch: Batch) -> list[_Seen]:
    """Pass through all parts, one after the other."""
    count = len(next(iter(batch.values())))
    found: list[_Seen] = []
    entry: Tensor | None = None
    for part in parts:
        given = dict(batch)
        if entry is not None:
            given[ENTRY] = entry.requires_grad_()
        weights = {storage_id(p) for p in part.parameters().values()}
        kept = KeptTensors()
        with (
            without_numbers(part),
            requiring_gradients(part, wanted=False),
            torch.enable_grad(),
            saved_tensors_hooks(kept.keep, lambda tensor: tensor),
        ):
            part(given)
        before = 0 if entry is None else entry.nbytes // count
        found.append(_Seen(part, kept.nbytes(besides=weights) // count, before))
        entry = None if part.is_last else part.hidden
    return found


def _kept(hidden: Sequence[int], passes: int) -> int:
    """Most bytes per example that are kept at once between parts.

    Args:
        hidden: Bytes of the hidden state before every part.
        passes: Cotangents per example; 0 if nothing goes back.

    Returns:
        Without a way back the states before and behind a part; else those before it
        and before all parts in front of it, and the gradients before and behind it.
    """
    two = [a + b for a, b in pairwise((*hidden, 0))]
    if not passes:
        return max(two)
    before = accumulate(hidden)
    return max(
        sum_of + passes * around for sum_of, around in zip(before, two, strict=True)
    )


def _memory(seen: _Seen, whole: Plan) -> Memory:
    """Count the memory of one part, as of a network of its own."""
    part, effort, cost = seen.part, whole.effort, whole.effort.estimator.cost
    passes = 0 if cost.forward_only else effort.passes
    batch_size = min(effort.batch_size, effort.examples)
    found = memory(
        part,
        [block for block in whole.summed if part.names.issuperset(block.shapes)],
        Trace({}, {}, part.names, 0, 0, 0, seen.activations),
        batch_size=batch_size,
        recorded=effort.examples if cost.recorded else 0,
        passes=passes,
    )
    own = (p for n, p in part.parameters().items() if n in part.names)
    states = (1 + passes) * batch_size * seen.hidden
    return replace(
        found,
        weights=sum(p.nbytes for p in own),
        activations=(found.activations or 0) + states,
    )
