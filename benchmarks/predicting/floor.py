"""What no estimator can do without, and a forward pass as anybody runs it.

The floor of ``lm-fisher`` is a forward pass to the cross entropy of one label for each
token, a backward pass to the activations alone, behind the first hidden state, and one
symmetric rank-k update per distinct factor, at half of the product of the same shapes.
Drawing the labels is not counted. That of ``inputs`` has no head, no backward pass, and
the updates of A alone. Nothing here is taken from this package: which inputs
are the same tensor is found by looking at them.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from estimation.floor import Shape, add, nothing, rank_update
from estimation.tool import Seconds, Tool, timed


class Forward(Tool):
    """Logits of all texts, without gradients."""

    @override
    def estimate(self, count: int) -> None:
        with torch.no_grad():
            for x in self.workload.batches(count):
                self.workload.module(input_ids=x, use_cache=False)

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        return {}


class Floor(Tool):
    """Measures each part for itself, on the workload's own batches and shapes."""

    def __init__(self, workload: Any) -> None:
        super().__init__(workload)
        workload.module.requires_grad_(requires_grad=False)
        self._inputs, self._outputs = self._seen_shapes()

    @override
    def estimate(self, count: int) -> dict[str, Seconds]:
        """Seconds of ``forward``, ``backward`` and ``products`` for some texts."""
        device = self.workload.case.device
        forward, backward = nothing(), nothing()
        for x in self.workload.batches(count):
            with torch.no_grad():
                add(forward, timed(lambda x=x: self._loss(x), device))
            add(backward, timed(self._backward(x), device))
        products = self._products(count, self._inputs + self._outputs)
        return {"forward": forward, "backward": backward, "products": products}

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        return {}

    @override
    def measure(self, count: int) -> dict[str, Seconds]:
        return self.estimate(count)

    def _products(self, count: int, shapes: Counter[Shape]) -> Seconds:
        case, seconds = self.workload.case, nothing()
        for shape, number in shapes.items():
            passes = number * count / case.batch_size
            add(seconds, rank_update(shape, case.device), passes / 2)
        return seconds

    def _loss(self, x: Tensor, **inputs: Tensor) -> Tensor:
        """The cross entropy of any labels: speed does not depend on them."""
        given = inputs or {"input_ids": x}
        logits = self.workload.module(**given, use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="sum")

    def _backward(self, x: Tensor) -> Callable[[], Any]:
        """Do the forward pass now, and give the backward pass."""
        with torch.no_grad():
            first = self.workload.module.get_input_embeddings()(x)
        first.requires_grad_()
        with torch.enable_grad():
            loss = self._loss(x, inputs_embeds=first)
        return lambda: torch.autograd.grad(loss, first)

    def _seen_shapes(self) -> tuple[Counter[Shape], Counter[Shape]]:
        """How many distinct A and B there are of each shape, ``(rows, size)``."""
        a: Counter[Shape] = Counter()
        b: Counter[Shape] = Counter()
        inputs: list[Tensor] = []  # kept, so that no two are at one address

        def look(_module: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> None:
            if not any(args[0] is known for known in inputs):
                inputs.append(args[0])
                a[_rows(args[0])] += 1
            b[_rows(z)] += 1

        module = self.workload.module
        parts = map(module.get_submodule, self.workload.linears)
        handles = [part.register_forward_hook(look) for part in parts]
        with torch.no_grad():
            module(input_ids=next(self.workload.batches(self.workload.case.batch_size)))
        for handle in handles:
            handle.remove()
        return a, b


class FloorOfInputs(Floor):
    """The part of it that A alone needs: no head, no loss, nothing pulled back."""

    @override
    def estimate(self, count: int) -> dict[str, Seconds]:
        """Seconds of ``hidden`` states and of ``products`` for some texts."""
        hidden, body = nothing(), self.workload.module.base_model
        with torch.no_grad():
            for x in self.workload.batches(count):
                run = partial(body, input_ids=x, use_cache=False)
                add(hidden, timed(run, self.workload.case.device))
        return {"hidden": hidden, "products": self._products(count, self._inputs)}


def _rows(z: Tensor) -> Shape:
    return z.numel() // z.shape[-1], z.shape[-1]
