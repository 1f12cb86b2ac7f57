"""What no estimator can do without, and a forward pass as anybody runs it.

The floor of ``lm-fisher`` is a forward pass to the cross entropy of one label for each
token, a backward pass to the activations alone, behind the first hidden state, and one
symmetric rank-k update per distinct factor, at half of the product of the same shapes.
Drawing the labels is not counted. That of ``inputs`` has no head, no backward pass, and
the updates of A alone. Nothing here is taken from this package: which inputs
are the same tensor is found by looking at them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from estimation.floor import add, nothing, products, seen_shapes
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
        case = workload.case
        x = next(workload.batches(case.batch_size))
        self._shapes = seen_shapes(
            workload.module, workload.linears, lambda: workload.module(input_ids=x)
        )

    @override
    def estimate(self, count: int) -> dict[str, Seconds]:
        """Seconds of ``forward``, ``backward`` and ``products`` for some texts."""
        case = self.workload.case
        device, passes = case.device, count / case.batch_size
        forward, backward = nothing(), nothing()
        for x in self.workload.batches(count):
            with torch.no_grad():
                add(forward, timed(lambda x=x: self._loss(x), device))
            add(backward, timed(self._backward(x), device))
        updates = products(self._shapes.all, passes, device)
        return {"forward": forward, "backward": backward, "products": updates}

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        return {}

    @override
    def measure(self, count: int) -> dict[str, Seconds]:
        return self.estimate(count)

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


class FloorOfInputs(Floor):
    """The part of it that A alone needs: no head, no loss, nothing pulled back."""

    @override
    def estimate(self, count: int) -> dict[str, Seconds]:
        """Seconds of ``hidden`` states and of ``products`` for some texts."""
        case, hidden = self.workload.case, nothing()
        body = self.workload.module.base_model
        with torch.no_grad():
            for x in self.workload.batches(count):
                run = partial(body, input_ids=x, use_cache=False)
                add(hidden, timed(run, case.device))
        passes = count / case.batch_size
        updates = products(self._shapes.inputs, passes, case.device)
        return {"hidden": hidden, "products": updates}
