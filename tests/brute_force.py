"""The oracle of coverage: what layers saw and what was made of it, by brute force.

Jacobians are ordinary gradients, one for each number of the output, so that they hold
for whatever a module does; inputs and cotangents are recorded in a pass of their own.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import (
    Artifact,
    Cotangents,
    KroneckerBlock,
    NamedConfig,
)
from kfac_artifacts.capture import (
    LayerCall,
    LooseParameter,
    Pass,
    prove,
    requiring_gradients,
    take_inventory,
)
from kfac_artifacts.capture.layers.batch_layout import BatchLayout
from kfac_artifacts.network import Batch, Examples, Network, OutputMap, TensorExamples
from tests.computed import compute

EXACT = Cotangents("exact", None, 0)
Function = Callable[[Any, Any], Tensor]


def network_of(module: nn.Module, f: Function) -> Network:
    return Network(module.double().eval(), OutputMap(NamedConfig("f"), f), "toy")


def artifact_of(module: nn.Module, f: Function, batch: dict[str, Tensor]) -> Artifact:
    """Compute with exact cotangents, whatever the mode of the module."""
    network = Network(module.double(), OutputMap(NamedConfig("f"), f), "toy")
    return compute(network, TensorExamples(batch, "x"), cotangents=EXACT)


def jacobians(network: Network, batch: Batch) -> dict[str, Tensor]:
    """``[N, C, …]`` for every parameter: one ordinary gradient for each number."""
    parameters = {
        n: p for n, p in network.parameters().items() if p.is_floating_point()
    }
    with requiring_gradients(network, wanted=True), torch.enable_grad():
        f = network(batch)
        rows = [
            torch.autograd.grad(
                f[n, c],
                list(parameters.values()),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for n in range(f.shape[0])
            for c in range(f.shape[1])
        ]
    return {
        name: torch.stack(row).unflatten(0, tuple(f.shape))
        for name, row in zip(parameters, zip(*rows, strict=True), strict=True)
    }


def gramian(J: Tensor) -> Tensor:
    """``Σ JᵀJ / N`` of a Jacobian ``[N, C, …]``."""
    rows = J.flatten(2) if J.dim() > 2 else J[..., None]
    return torch.einsum("ncp,ncq->pq", rows, rows) / len(J)


def assert_close(found: Tensor, wanted: Tensor, name: str) -> None:
    """Nearly the same: some norms compute in float32 whatever the network's type."""
    torch.testing.assert_close(
        found, wanted, rtol=1e-6, atol=1e-8, msg=lambda text: f"{name}: {text}"
    )


def assert_exact(
    module: nn.Module, f: Function, batch: dict[str, Tensor]
) -> Mapping[str, str]:
    """Hold every law for a model, and give what it leaves uncovered, and why.

    Besides what ``check_against_brute_force`` does: every parameter is accounted for,
    and the model is left as it was found.
    """
    network = network_of(module, f)
    state = {n: v.clone() for n, v in module.state_dict().items()}
    examples = TensorExamples(batch, "x")
    artifact = compute(network, examples, cotangents=EXACT)
    uncovered = artifact.provenance.uncovered
    assert not set(artifact.parameters) & set(uncovered)
    assert set(artifact.parameters) | set(uncovered) == set(network.parameters())
    assert all(torch.equal(v, state[n]) for n, v in module.state_dict().items())
    J = jacobians(network, batch)
    for name, reason in uncovered.items():
        assert (reason == "f does not depend on it") == (J[name].norm() == 0), name
    _check_blocks(network, examples, artifact, J)
    return uncovered


def check_against_brute_force(
    network: Network, examples: Examples, artifact: Artifact
) -> Counter[str]:
    """Check every covered block against what the layers saw, and that itself.

    Every example's gradient of every covered parameter, rebuilt from inputs and
    cotangents alone, is its row of the Jacobian; Kronecker blocks are made of just
    these inputs and cotangents; Gramian blocks equal the Gramian.

    Returns:
        How many blocks there are of each kind.
    """
    J = jacobians(network, examples.batch(range(len(examples))))
    _check_blocks(network, examples, artifact, J)
    return Counter(block.kind for block in artifact.blocks.values())


def _check_blocks(
    network: Network, examples: Examples, artifact: Artifact, J: Mapping[str, Tensor]
) -> None:
    n = len(examples)
    batch = examples.batch(range(n))
    recorder = _record(network, examples, batch, J)
    for name, block in artifact.blocks.items():
        wanted = (
            recorder.pair(name, network.mask(batch), n)
            if isinstance(block, KroneckerBlock)
            else (gramian(J[block.parameters[0]]),)
        )
        for factor, matrix in zip(block.factors, wanted, strict=True):
            assert_close(artifact.factors[factor].to_dense(), matrix, factor)


class Recorder:
    """Keeps every input, and sums up what one cotangent after the other gives."""

    keeps_inputs = True

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[LayerCall]] = defaultdict(list)
        self.gradients: dict[tuple[str, int | None], Any] = {}
        self.outer: dict[str, Any] = {}

    def on_input(self, call: LayerCall) -> None:
        self.calls[call.layer.name].append(call)

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        layer = call.layer
        found = layer.gradients(call.a, g)
        for role, name in layer.parameters.items():
            key = (name, layer.part)
            self.gradients[key] = self.gradients.get(key, 0) + found[role]
        if not layer.has_gramian:
            if not call.a.is_floating_point():
                g = g * (call.a >= 0)[..., None]
            rows = _real(call, g)
            self.outer[layer.name] = self.outer.get(layer.name, 0) + rows.mT @ rows

    def pair(self, name: str, mask: Tensor | None, count: int) -> tuple[Tensor, ...]:
        """A and B of a layer."""
        rows = torch.cat([_inputs(call, mask) for call in self.calls[name]])
        return rows.mT @ rows / max(len(rows), 1), self.outer[name] / count


def _real(call: LayerCall, x: Tensor) -> Tensor:
    """The rows of the positions that count, of ``[N, P, d]``."""
    rows = x.flatten(0, -2)
    if call.rows is None:
        return rows
    assert call.mask is not None
    assert torch.equal(rows[call.rows], x[call.mask])
    return rows[call.rows]


def _inputs(call: LayerCall, mask: Tensor | None) -> Tensor:
    """The rows that A is made of; the network's mask holds wherever it fits."""
    layer, a = call.layer, call.a
    if not a.is_floating_point():
        assert layer.looks_up
        table: Any = layer
        a = nn.functional.one_hot(a.clamp(min=0), table.rows).double()
        a = a * (call.a >= 0)[..., None]
    rows = _real(call, a)
    own = layer.part is not None or isinstance(layer, LooseParameter)
    own = own or call.layout is BatchLayout.SHARED
    if mask is not None and not own and a.shape[:2] == mask.shape:
        assert torch.equal(rows, a[mask])
    if "bias" in layer.parameters:
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    return rows


def _record(
    network: Network, examples: Examples, batch: Batch, J: Mapping[str, Tensor]
) -> Recorder:
    two = examples.batch([0, len(examples) - 1])
    coverage = prove(network, take_inventory(network.module), two)
    recorder = Recorder()
    with requiring_gradients(network, wanted=False):
        passed = Pass(network, coverage.layers, batch, recorder).forward()
        assert not passed.failures
        for c in range(passed.f.shape[1]):
            recorder.gradients.clear()
            s = torch.zeros_like(passed.f)
            s[:, c] = 1
            passed.backward(s, last=c == passed.f.shape[1] - 1)
            assert recorder.gradients
            for (name, part), found in recorder.gradients.items():
                row = J[name][:, c] if part is None else J[name][:, c, part]
                assert_close(found.reshape(row.shape), row, name)
    return recorder


def randomised(module: nn.Module) -> nn.Module:
    """Draw every parameter and running statistic, so that no gradient vanishes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in [*module.named_parameters(), *module.named_buffers()]:
            if p.is_floating_point():
                noise = 0.3 * torch.randn(p.shape, generator=generator)
                one = "norm" in name.lower() or "scale" in name or "gamma" in name
                p.copy_((noise.abs() if "var" in name else noise) + one)
    return module
