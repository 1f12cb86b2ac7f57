"""The floor: what no estimator of these factors can do without.

A forward pass, a backward pass to the activations only (frozen parameters, the first
hidden state as leaf), and one symmetric rank-k update per distinct factor, at half of
the product of the same shapes. Nothing here is taken from this package: which inputs
are the same tensor is found by looking at them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from estimation.models import Workload
from estimation.tool import Seconds, synchronise, timed

Shape: TypeAlias = tuple[int, int]  # rows per batch, size of the factor
Pair: TypeAlias = tuple[Shape, Shape]  # of the input and the output of a layer
REPEATS = 3
PEAK_SIZE = {"cuda": 8192, "cpu": 2048}


class Floor:
    """Measures each part for itself, on the workload's own batches and shapes."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        workload.f.requires_grad_(requires_grad=False)
        x = next(workload.batches(workload.case.batch_size))
        self._shapes = seen_shapes(workload.f, workload.linears, lambda: workload.f(x))

    def measure(self, count: int) -> dict[str, Seconds]:
        """Seconds of ``forward``, ``backward`` and ``products`` for some examples."""
        device = self.workload.case.device
        forward, backward = nothing(), nothing()
        for x in self.workload.batches(count):
            with torch.no_grad():
                add(forward, timed(lambda x=x: self.workload.f(x), device))
            add(backward, timed(self._backward(x), device))
        passes = count / self.workload.case.batch_size
        updates = products(self._shapes.all, passes, device)
        return {"forward": forward, "backward": backward, "products": updates}

    def flops(self) -> int:
        """Multiplications and additions of the floor, for all examples."""
        case = self.workload.case
        x = next(self.workload.batches(case.batch_size))
        with FlopCounterMode(display=False) as counter:
            self._backward(x)()  # counts the forward pass that it needs, too
        updates = sum(d * d * rows * n for (rows, d), n in self._shapes.all.items())
        passes = case.examples // case.batch_size
        return passes * (counter.get_total_flops() + updates)

    def peak_rate(self) -> float:
        """Fastest that a large square product goes, in operations per second."""
        device = self.workload.case.device
        size = PEAK_SIZE[torch.device(device).type]
        seconds = min(rank_update((size, size), device)["wall"] for _ in range(REPEATS))
        return 2 * size**3 / seconds

    def _backward(self, x: Tensor) -> Callable[[], Any]:
        """Do the forward pass now, and give the backward pass."""
        with self._leaf() as leaves, torch.enable_grad():
            f = self.workload.f(x)
        s = torch.randn_like(f)
        return lambda: torch.autograd.grad(f, leaves, s)

    @contextmanager
    def _leaf(self) -> Iterator[list[Tensor]]:
        leaves: list[Tensor] = []

        def cut(_module: nn.Module, _args: Any, z: Tensor) -> Tensor:
            leaves.append(z.detach().requires_grad_())
            return leaves[-1].clone()

        handle = self.workload.f.stem.register_forward_hook(cut)
        try:
            yield leaves
        finally:
            handle.remove()


@dataclass(frozen=True)
class Shapes:
    """How many there are of each shape.

    Attributes:
        inputs: Distinct A.
        outputs: B.
        layers: Layers, by both.
    """

    inputs: Counter[Shape] = field(default_factory=Counter)
    outputs: Counter[Shape] = field(default_factory=Counter)
    layers: Counter[Pair] = field(default_factory=Counter)

    @property
    def all(self) -> Counter[Shape]:
        """All factors."""
        return self.inputs + self.outputs


def seen_shapes(
    module: nn.Module, linears: Iterable[str], run: Callable[[], Any]
) -> Shapes:
    """Look what linear maps are given.

    Args:
        module: The model.
        linears: Names of the linear maps.
        run: Runs it on a batch.

    Returns:
        The shapes.
    """
    found = Shapes()
    inputs: list[Tensor] = []  # kept, so that no two are at one address

    def look(_module: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> None:
        if not any(args[0] is known for known in inputs):
            inputs.append(args[0])
            found.inputs[_rows(args[0])] += 1
        found.outputs[_rows(z)] += 1
        found.layers[_rows(args[0]), _rows(z)] += 1

    parts = map(module.get_submodule, linears)
    handles = [part.register_forward_hook(look) for part in parts]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return found


def _rows(z: Tensor) -> Shape:
    return z.numel() // z.shape[-1], z.shape[-1]


def products(shapes: Counter[Shape], passes: float, device: str) -> Seconds:
    """Time so many passes of a symmetric update for each shape, half of a product."""
    seconds = nothing()
    for shape, number in shapes.items():
        add(seconds, rank_update(shape, device), number * passes / 2)
    return seconds


def rank_update(shape: Shape, device: str) -> Seconds:
    """Best time of a full product added to a sum, ``S += rowsᵀ rows``."""
    rows = torch.randn(shape, device=device)
    total = torch.zeros(shape[1], shape[1], device=device)
    return best(lambda: total.addmm_(rows.mT, rows), device)


def best(work: Callable[[], Any], device: str) -> Seconds:
    """Time some work several times after once, and take the least by each clock."""
    work()
    synchronise(device)
    seconds = [timed(work, device) for _ in range(REPEATS)]
    return {clock: min(s[clock] for s in seconds) for clock in seconds[0]}


def nothing() -> Seconds:
    """No seconds by either clock."""
    return {"wall": 0.0, "cpu": 0.0}


def add(total: Seconds, part: Seconds, times: float = 1.0) -> None:
    """Add seconds so many times."""
    for clock, seconds in part.items():
        total[clock] += times * seconds
