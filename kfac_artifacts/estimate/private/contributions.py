"""What each example by itself adds to each factor: the sums before they are sums.

With the noise of differential privacy a factor is the mean over examples of their
contributions, each of which is a positive semidefinite matrix of the example alone:

- to A ``(1/P) Σ_p a_p a_pᵀ`` over its own P positions, so that no divisor of others
  depends on it (without noise A is the mean over the positions of all examples);
- to B ``E_s Σ_p g_p g_pᵀ``, and to a Gramian ``E_s v vᵀ``, over its cotangents.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.capture import (
    Coverage,
    KroneckerLayer,
    Layer,
    LayerCall,
    gramian_factor,
    positions_of,
)


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the examples of a batch add to one factor: ``weight_n Σ_m r_nm r_nmᵀ``.

    Attributes:
        factor: Name of the factor.
        rows: The rows of every example, in float64; zero where there is none.
        weights: What the sum over them is multiplied by.
    """

    factor: str
    rows: Float[Tensor, "n m d"]
    weights: Float[Tensor, " n"]

    def norms(self) -> Float[Tensor, " n"]:
        """Frobenius norm of each contribution, by the smaller of two Gram matrices."""
        r = self.rows
        gram = r @ r.mT if r.shape[1] <= r.shape[2] else r.mT @ r
        return self.weights * gram.flatten(1).norm(dim=1)

    def clipped(self, norm: float) -> Float[Tensor, "_ d"]:
        """Rows whose outer products add up to contributions of at most this norm."""
        scale = (norm / self.norms().clamp(min=norm)) * self.weights
        return (self.rows * scale.sqrt()[:, None, None]).flatten(0, 1)


class Contributing:
    """Listens to passes, and tells what each example of a batch adds to each factor.

    Args:
        coverage: The proved layers.
        sums_draws: Whether the cotangents of an example are summed, as unit vectors
            are, and not averaged.
        forward_only: Whether nothing is pulled back, so that there are inputs alone.
    """

    keeps_inputs = False
    out_of_examples = False

    def __init__(
        self, coverage: Coverage, *, sums_draws: bool, forward_only: bool
    ) -> None:
        self._coverage = coverage
        self._sums_draws = sums_draws
        self._forward_only = forward_only
        self._calls: dict[KroneckerLayer, list[LayerCall]] = defaultdict(list)
        self._g: dict[tuple[Layer, int], list[Tensor]] = defaultdict(list)
        self._part: dict[str, Tensor] = {}
        self._whole: dict[str, list[Tensor]] = defaultdict(list)

    def on_input(self, call: LayerCall) -> None:
        """Keep the input."""
        if isinstance(call.layer, KroneckerLayer):
            # a copy, of which nothing is dropped when the pass is over
            self._calls[call.layer].append(replace(call, rows=None, layout=None))

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """Keep the cotangent, or the gradient of a Gramian block."""
        self.on_cotangents(call, g[None])

    def on_cotangents(self, call: LayerCall, g: Tensor) -> None:
        """Keep K cotangents of every example, ``[K, N, P, d_out]``, likewise."""
        layer = call.layer
        if not layer.has_gramian:
            self._g[layer, call.number].append(g.detach().double())
            return
        found = [layer.gradients(call.a, each) for each in g]
        for role, name in layer.parameters.items():
            value = torch.stack([each[role].detach().double() for each in found])
            before = self._part.get(name)
            self._part[name] = value if before is None else before + value

    def end_of_forward(self) -> None:
        """Nothing to do."""

    def end_of_backward(self) -> None:
        """Close the gradients of some cotangents: all calls of a layer have come."""
        for name, value in self._part.items():
            self._whole[name].append(value)
        self._part.clear()

    def take(self) -> Iterator[Contributions]:
        """Give the contributions of the batch, and forget it."""
        for layer, calls in self._calls.items():
            if layer not in self._coverage.leaders:
                yield _of_inputs(layer, calls)
            if not self._forward_only:
                yield self._of_cotangents(layer, calls)
        for name, draws in self._whole.items():
            v = torch.cat(draws).transpose(0, 1)
            yield self._averaged(gramian_factor(name), v, v.shape[1])
        self._calls.clear()
        self._g.clear()
        self._whole.clear()

    def _of_cotangents(
        self, layer: KroneckerLayer, calls: list[LayerCall]
    ) -> Contributions:
        of_calls = [torch.cat(self._g[layer, call.number]) for call in calls]
        g = torch.cat(of_calls, dim=2).transpose(0, 1)
        _, real = positions_of(calls, g)
        if real is not None:
            g = g * real[:, None, :, None]
        return self._averaged(layer.output_factor, g.flatten(1, 2), g.shape[1])

    def _averaged(self, factor: str, rows: Tensor, draws: int) -> Contributions:
        weight = 1.0 if self._sums_draws else 1 / draws
        return Contributions(factor, rows, rows.new_full((len(rows),), weight))


def _of_inputs(layer: KroneckerLayer, calls: list[LayerCall]) -> Contributions:
    a, real = positions_of(calls, calls[0].a.double())
    a = a.detach().double()
    if layer.has_constant:
        a = torch.cat([a, a.new_ones(*a.shape[:2], 1)], dim=2)
    counts = a.new_full((len(a),), a.shape[1])
    if real is not None:
        a, counts = a * real[..., None], real.sum(1).clamp(min=1)
    return Contributions(layer.input_factor, a, 1 / counts)
