"""Proof of coverage: what the layers see of one example is the whole of its gradient.

The gradients that layers reconstruct are compared with those of autograd, and of one
example the others must see nothing. This catches fused attention, ties, dead branches,
and an axis that is not what it was taken for.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.capture.batch_axes import find_batch_axes
from kfac_artifacts.capture.hooks import Pass, requiring_gradients
from kfac_artifacts.capture.layers.base import Layer, LayerCall
from kfac_artifacts.capture.layers.inventory import Inventory
from kfac_artifacts.errors import CoverageError, KfacError, first_line
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.seeding import seeded

TOLERANCES = {torch.float64: (1e-6, 1e-5), torch.float32: (1e-3, 1e-5)}
"""How far a gradient may be off, by number type: as a share of itself, and of the
largest gradient, below which a difference is rounding."""
HALF_PRECISION = (0.2, 0.02)
UNREACHED = "f does not depend on it"
OUTSIDE = "f also uses it outside its module (tied or fused weights)"


@dataclass
class Coverage:
    """What was proved: layers in use, their number of calls, and who shares an input.

    Attributes:
        layers: Layers that are covered.
        call_counts: How often each is used in a forward pass.
        leaders: Layers that have the input of another one, and that one.
    """

    layers: list[Layer]
    call_counts: dict[Layer, int]
    leaders: dict[Layer, Layer]

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that are covered."""
        return {name for layer in self.layers for name in layer.parameters.values()}


class _Prover:
    """Compares what each layer sees with the true gradient, as soon as it saw all."""

    keeps_inputs = True

    def __init__(self, true: dict[tuple[str, int | None], Tensor], largest: float):
        self.inputs: list[LayerCall] = []
        self.faults: dict[Layer, str] = {}
        self.left: dict[Layer, int] = {}  # calls whose cotangents have not come
        self._true = true
        self._largest = largest
        self._seen: dict[Layer, dict[str, Tensor]] = {}

    def on_input(self, call: LayerCall) -> None:
        """Keep it for the comparison of inputs."""
        self.inputs.append(call)

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """Add up the gradient of all examples; compare after the last call."""
        layer = call.layer
        try:
            self._add(call, g)
        except (RuntimeError, TypeError, ValueError, IndexError):
            self.faults[layer] = "its tensors do not have the shapes of its kind"
        if call.mask is not None and bool(g[~call.mask].any()):
            self.faults[layer] = "f depends on positions that the attention mask hides"
        self.left[layer] -= 1
        if self.left[layer] == 0:
            self.compare(layer)

    def _add(self, call: LayerCall, g: Tensor) -> None:
        seen = self._seen.setdefault(call.layer, {})
        for n in range(len(g)):
            found = call.layer.gradients(call.a[n : n + 1], g[n : n + 1])
            for role, name in call.layer.parameters.items():
                gradient = found[role].detach()[0]
                seen[name] = seen[name] + gradient if name in seen else gradient

    def compare(self, layer: Layer) -> None:
        """Note why a layer does not see the gradient of its parameters, if so."""
        seen = self._seen.pop(layer, {})
        for name in layer.parameters.values():
            actual = self._true.pop((name, layer.part), None)
            fault = self._fault(layer, seen.get(name), actual)
            if fault == UNREACHED and name != layer.parameters["weight"]:
                continue
            if fault is not None:
                self.faults.setdefault(layer, fault)

    def _fault(
        self, layer: Layer, seen: Tensor | None, actual: Tensor | None
    ) -> str | None:
        if seen is None:
            reached = actual is not None and bool(actual.any())
            return layer.unseen if reached else UNREACHED
        relative, negligible = TOLERANCES.get(seen.dtype, HALF_PRECISION)
        known = torch.zeros_like(seen) if actual is None else actual
        allowed = relative * known.norm() + negligible * self._largest
        if seen.shape != known.shape or not (seen - known).norm() <= allowed:
            return OUTSIDE
        return UNREACHED if actual is None else None


def prove(
    network: Network,
    inventory: Inventory,
    batch: Batch,
    examine: Callable[[Tensor], None] | None = None,
) -> Coverage:
    """Find which layers hold what they promise; drop the others from the inventory.

    With a random cotangent for every example, each is pulled back alone, which shows
    where in every tensor it is (``batch_axes``), and then all at once: what a layer
    sees of them must be the gradient that autograd gives its parameters. About one
    gradient of the parameters that are asked for is held at a time.

    Args:
        network: The network; left as it was found.
        inventory: Layers to prove; those that fail move to its ``uncovered``.
        batch: Two examples.
        examine: Told f of them, ``[2, C]``, before anything else is done.

    Returns:
        The proved layers.

    Raises:
        CoverageError: If none is left.
        KfacError: If f is not finite, or the model lets no gradient pass.
    """
    with _told_in_a_line(network):
        gradients = true_gradients(network, batch, inventory.excluded)
    require_finite(gradients[0])
    if examine is not None:
        examine(gradients[0])
    coverage = prove_part(network, inventory, batch, gradients)
    require_layers(inventory)
    return coverage


def prove_part(
    network: Network,
    inventory: Inventory,
    batch: Batch,
    gradients: tuple[Tensor, Tensor, dict[str, Tensor]],
) -> Coverage:
    """Prove the layers of a network, or of a part of one; see ``prove``.

    Args:
        network: The network, or the part, whose f is what the part gives.
        inventory: Layers to prove; those that fail move to its ``uncovered``.
        batch: Two examples.
        gradients: The value of f, a cotangent for every example, and the gradients of
            the parameters by name; used up.

    Returns:
        The proved layers; there may be none.
    """
    f, s, true = gradients
    sizes = {name: gradient.norm().item() for name, gradient in true.items()}
    reached = {name for name, size in sizes.items() if size or bool(true[name].any())}
    largest = max(sizes.values(), default=0.0)
    prover = _Prover(_by_layer(true, inventory.layers), largest)
    true.clear()
    with requiring_gradients(network, wanted=False):
        find_batch_axes(network, inventory, batch, f, s)
        tell_unreached(inventory, reached)
        if not inventory.layers:
            return Coverage([], {}, {})
        passed = Pass(network, inventory.layers, batch, prover).forward()
        prover.left |= passed.call_counts
        passed.backward(s)
    for layer in list(inventory.layers):
        if prover.left.get(layer) != 0:
            prover.compare(layer)
        fault = passed.failures.get(layer, prover.faults.get(layer))
        if fault is not None and layer in inventory.layers:
            inventory.drop(layer, fault)
    tell_unreached(inventory, reached)
    call_counts = {layer: passed.call_counts[layer] for layer in inventory.layers}
    return Coverage(
        inventory.layers, call_counts, leaders_of(prover.inputs, call_counts)
    )


def require_finite(f: Tensor) -> None:
    """Refuse to prove anything of an f that is not finite.

    Raises:
        KfacError: If it is not.
    """
    if not bool(f.isfinite().all()):
        raise KfacError(
            "the model's output is not finite for the first examples; try --dtype "
            "float32 (dtype=), or look at the output map and at the data"
        )


def tell_unreached(inventory: Inventory, reached: Collection[str]) -> None:
    """Say of what f does not depend on just that."""
    for name in inventory.uncovered.keys() - inventory.refused:
        if name not in reached:
            inventory.uncovered[name] = UNREACHED


def require_layers(inventory: Inventory) -> None:
    """Refuse to go on without layers.

    Args:
        inventory: The inventory.

    Raises:
        CoverageError: If the inventory has no layer, with the reasons.
    """
    if not inventory.layers:
        reasons = sorted(set(inventory.uncovered.values()))
        raise CoverageError(f"no parameter can be covered: {'; '.join(reasons)}")


def true_gradients(
    network: Network,
    batch: Batch,
    excluded: Collection[str] = (),
    s: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Ask autograd for the gradient of every parameter that f depends on.

    Args:
        network: The network; left as it was found.
        batch: The examples.
        excluded: Parameters of which none is asked for.
        s: A cotangent for every example, ``[N, C]``; None for a random one.

    Returns:
        The value of f, the cotangents, and the gradients of what f depends on by name.

    Raises:
        CoverageError: If f depends on no parameter.
    """
    left_out = set(excluded)
    with requiring_gradients(network, wanted=True), torch.enable_grad():
        parameters = network.parameters()
        leaves = {n: p for n, p in parameters.items() if p.requires_grad}
        f = network(batch)
        if s is None:
            s = torch.randn(f.shape, generator=seeded(0)).to(f)
        if not f.requires_grad:
            raise CoverageError("f does not depend on any parameter of the model")
        leaves = {n: p for n, p in leaves.items() if n not in left_out}
        wanted = list(leaves.values())
        grads = torch.autograd.grad(f, wanted, s, allow_unused=True) if wanted else ()
    found = {n: g for n, g in zip(leaves, grads, strict=True) if g is not None}
    dense = {n: g.to_dense() if g.is_sparse else g for n, g in found.items()}
    return f.detach(), s, dense


@contextmanager
def _told_in_a_line(network: Network) -> Iterator[None]:
    """Say in one line that a model cannot be run, or has no gradient."""
    try:
        yield
    except KfacError:
        raise
    except RuntimeError as error:
        raise KfacError(
            f"{network.id} cannot be run with gradients on the first examples: "
            f"{first_line(error)}"
        ) from error


def _by_layer(
    true: dict[str, Tensor], layers: Sequence[Layer]
) -> dict[tuple[str, int | None], Tensor]:
    """The true gradients that layers are to see, flattened; of a stack, its slices."""
    return {
        (name, layer.part): true[name][
            ... if layer.part is None else layer.part
        ].flatten()
        for layer in layers
        for name in layer.parameters.values()
        if name in true
    }


def leaders_of(
    calls: Sequence[LayerCall], call_counts: Mapping[Layer, int]
) -> dict[Layer, Layer]:
    """Find layers that come right after another one with the very same input.

    Args:
        calls: All calls of a pass, in order, with their inputs.
        call_counts: How often each layer was used; only those used once share.

    Returns:
        Each such layer, with the first one that has its input.
    """
    leaders: dict[Layer, Layer] = {}
    leader: Layer | None = None
    last: tuple[Tensor, Hashable] | None = None
    for call in calls:
        key = call.layer.shared_input(call)
        if key is None or call_counts.get(call.layer) != 1:
            leader, last = None, None
        elif (
            leader is not None
            and last is not None
            and last[0] is call.x
            and last[1] == key
        ):
            leaders[call.layer] = leader
        else:
            leader, last = call.layer, (call.x, key)
    return leaders


def reached_parameters(network: Network, batch: Batch) -> list[str]:
    """Name the parameters that f depends on, in the order of the network."""
    _, _, gradients = true_gradients(network, batch)
    return list(gradients)
