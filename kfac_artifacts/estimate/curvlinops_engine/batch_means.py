"""What curvlinops is given: proved plain layers, one batch after the other, watched.

The means of its factors over batches are kept here: A by examples and positions, B by
examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts import curvlinops_adapter
from kfac_artifacts.capture import (
    Coverage,
    Inventory,
    Layer,
    LinearLayer,
    LooseParameter,
)
from kfac_artifacts.errors import CoverageError, KfacError
from kfac_artifacts.network import Batch, Network


class Means:
    """Weighted means of matrices by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}

    def add(self, name: str, matrix: Tensor, weight: int) -> None:
        """Add a matrix, itself a mean over ``weight`` things."""
        if name not in self._sums:
            self._sums[name] = torch.zeros_like(matrix)
            self._weights[name] = 0
        self._sums[name].add_(matrix, alpha=weight)
        self._weights[name] += weight

    def count(self, name: str) -> int:
        """Of how many things a matrix is the mean."""
        return self._weights[name]

    def __getitem__(self, name: str) -> Tensor:
        """The mean, made symmetric, on the CPU."""
        mean = self._sums[name] / self._weights[name]
        return ((mean + mean.mT) / 2).cpu()


@dataclass
class _Use:
    """How a layer was used in one forward pass: the last call, and how many."""

    calls: int = 0
    by_keyword: bool = False
    positions: int = 0
    has_positions: bool = False

    @property
    def fault(self) -> str | None:
        """Why curvlinops would not see this use as it is."""
        if self.calls == 0:
            return "curvlinops sees nothing of a module that is not called"
        if self.calls != 1:
            return f"curvlinops needs one use in a forward pass, not {self.calls}"
        if self.by_keyword:
            return "curvlinops does not see an input that is given by keyword"
        return None


class Watched(nn.Module):
    """The network as curvlinops gets it; what it would get wrong is taken out first.

    Attributes:
        layers: Those that are handed over; the others are dropped from the inventory.
    """

    def __init__(
        self, network: Network, coverage: Coverage, inventory: Inventory, batch: Batch
    ) -> None:
        super().__init__()
        self.base = network.module
        self._network = network
        self.layers = _plain_layers(network, coverage, inventory, batch)

    @override
    def forward(self, batch: Batch) -> Tensor:
        """Apply the output map, and see that its value is finite."""
        f = self._network(batch)
        if not bool(f.detach().isfinite().all()):
            raise KfacError(
                "the model's output is not finite for an example of this batch; "
                "compute with the native engine to learn which"
            )
        return f

    def add_batch(
        self,
        batch: Batch,
        indices: Sequence[int],
        settings: curvlinops_adapter.Settings,
        means: Means,
    ) -> None:
        """Let curvlinops compute the factors of one batch, and add them up.

        Args:
            batch: The examples, encoded.
            indices: Their numbers.
            settings: Settings of curvlinops.
            means: Where the factors go, as ``<layer>.A`` and ``<layer>.B``.
        """
        known = self._network.parameters()
        names = [name for layer in self.layers for name in layer.parameters.values()]
        with _watching(self.layers) as uses:
            factors = curvlinops_adapter.kfac_factors(
                self, [known[name] for name in names], batch, len(indices), settings
            )
        mask = self._network.mask(batch)
        padded = mask is not None and not bool(mask.all())
        paths = {module: path for path, module in self.named_modules()}
        for layer in self.layers:
            _check_use(layer, uses[layer], padded, indices)
            A, B = factors[paths[layer.modules[0]]]
            expand = settings.approximation == "expand"
            rows = len(indices) * (uses[layer].positions if expand else 1)
            means.add(f"{layer.name}.A", A, rows)
            means.add(f"{layer.name}.B", B, len(indices))


def _plain_layers(
    network: Network, coverage: Coverage, inventory: Inventory, batch: Batch
) -> list[Layer]:
    """Drop from the inventory what curvlinops does not cover; give the rest."""
    plain = [layer for layer in coverage.layers if _is_plain(layer)]
    reasons = {
        layer: f"curvlinops does not cover {_kind(layer)}"
        for layer in coverage.layers
        if layer not in plain
    }
    with torch.no_grad(), _watching(plain) as uses:
        network(batch)
    reasons |= {layer: fault for layer in plain if (fault := uses[layer].fault)}
    for layer, reason in reasons.items():
        inventory.drop(layer, reason)
    if not inventory.layers:
        found = "; ".join(sorted(set(inventory.uncovered.values())))
        raise CoverageError(f"no parameter can be covered: {found}")
    return [layer for layer in plain if layer not in reasons]


def _check_use(layer: Layer, use: _Use, padded: bool, indices: Sequence[int]) -> None:
    if use.fault is not None:
        raise CoverageError(f"{layer.name}: {use.fault}; exclude it")
    if padded and use.has_positions:
        raise CoverageError(
            f"{layer.name}: the batch of examples {indices[0]} to {indices[-1]} is "
            "padded, and curvlinops would count padding as text; use the native "
            "engine, or a batch size of 1"
        )


def _is_plain(layer: Layer) -> bool:
    plain = isinstance(layer, LinearLayer) and len(layer.modules) == 1
    return plain and isinstance(layer.modules[0], nn.Linear | nn.Conv2d)


def _kind(layer: Layer) -> str:
    if isinstance(layer, LooseParameter):
        return "a parameter that is no module's weight"
    if len(layer.modules) > 1:
        return "modules that share their parameters"
    return type(layer.modules[0]).__name__


@contextmanager
def _watching(layers: Sequence[Layer]) -> Iterator[Mapping[Layer, _Use]]:
    """Note for a while how layers are used."""
    uses = {layer: _Use() for layer in layers}

    def hook(layer: Layer) -> Any:
        def note(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], z: Tensor
        ) -> None:
            use, d_out = (
                uses[layer],
                z.shape[1 if isinstance(module, nn.Conv2d) else -1],
            )
            use.calls += 1
            use.by_keyword = len(args) != 1 or bool(kwargs)
            use.positions = z.numel() // (len(z) * d_out)
            use.has_positions = z.dim() > 2

        return note

    hooks = [
        layer.modules[0].register_forward_hook(hook(layer), with_kwargs=True)
        for layer in layers
    ]
    try:
        yield uses
    finally:
        for handle in hooks:
            handle.remove()
