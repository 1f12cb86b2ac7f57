"""The oracle of coverage: what layers saw, against the Jacobian of ``torch.func``."""

from collections import Counter

import torch
from torch.func import jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from kfac_artifacts.artifact import (
    Cotangents,
    GramianBlock,
    KroneckerBlock,
    NamedConfig,
)
from kfac_artifacts.capture.hooks import Pass, requiring_gradients
from kfac_artifacts.capture.layers.inventory import take_inventory
from kfac_artifacts.capture.proof import prove
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests.computed import compute

EXACT = Cotangents("exact", None, 0)


def network_of(module, f):
    return Network(module.double().eval(), OutputMap(NamedConfig("f"), f), "toy")


def artifact_of(module, f, batch):
    """Compute with exact cotangents, whatever the mode of the module."""
    network = Network(module.double(), OutputMap(NamedConfig("f"), f), "toy")
    return compute(network, TensorExamples(batch, "x"), cotangents=EXACT)


def jacobians(network, batch):
    """``[N, C, P]`` for every parameter."""
    parameters = {n: p.detach() for n, p in network.parameters().items()}
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no batching rule
        found = jacrev(lambda p: network.functional_call(p, batch))(parameters)
    return {n: j.reshape(*j.shape[:2], -1) for n, j in found.items()}


class Recorder:
    """Rebuilds every example's gradient, and the factors, from a and g alone."""

    keeps_inputs = True

    def __init__(self):
        self.gradients = {}
        self.outer, self.inner = Counter(), Counter()
        self.positions = Counter()

    def on_input(self, visit):
        if visit.layer.whole:
            return
        a = visit.a
        if not a.is_floating_point():
            one_hot = torch.nn.functional.one_hot(a.clamp(min=0), visit.layer.rows)
            a = one_hot.double() * (a >= 0)[..., None]
        elif "bias" in visit.layer.parameters:
            a = torch.cat([a, torch.ones_like(a[..., :1])], dim=-1)
        rows = a.flatten(0, 1)
        if visit.rows is not None:
            assert torch.equal(rows[visit.rows], a[visit.mask])
            rows = rows[visit.rows]
        self.inner[visit.layer.name] = self.inner[visit.layer.name] + rows.mT @ rows
        self.positions[visit.layer.name] += len(rows)

    def on_cotangent(self, visit, g):
        found = visit.layer.gradients(visit.a, g)
        for role, name in visit.layer.parameters.items():
            self.gradients[name] = self.gradients.get(name, 0) + found[role]
        if not visit.layer.whole:
            if not visit.a.is_floating_point():
                g = g * (visit.a >= 0)[..., None]
            rows = g.flatten(0, 1)
            if visit.rows is not None:
                rows = rows[visit.rows]
            self.outer[visit.layer.name] = self.outer[visit.layer.name] + rows.mT @ rows


def assert_exact(module, f, batch):
    """Hold every law for a model, and give what it leaves uncovered, and why.

    Every example's gradient of every covered parameter, rebuilt from what the layers
    saw, equals its rows of the Jacobian; Gramian blocks equal the Gramian; Kronecker
    blocks are made of just these inputs and cotangents; every parameter is accounted
    for; the model is left as it was found.
    """
    network = network_of(module, f)
    state = {n: v.clone() for n, v in module.state_dict().items()}
    artifact = compute(network, TensorExamples(batch, "x"), cotangents=EXACT)
    uncovered = artifact.provenance.uncovered
    assert not set(artifact.parameters) & set(uncovered)
    assert set(artifact.parameters) | set(uncovered) == set(network.parameters())
    assert all(torch.equal(v, state[n]) for n, v in module.state_dict().items())
    J = jacobians(network, batch)
    for name, reason in uncovered.items():
        assert (reason == "f does not depend on it") == (J[name].norm() == 0), name
    recorder = _record(network, batch, J)
    count = len(next(iter(batch.values())))
    for name, block in artifact.blocks.items():
        _check_block(artifact, name, block, J, recorder, count)
    return uncovered


def _record(network, batch, J):
    inventory = take_inventory(network.module)
    two = {n: v[[0, -1]] for n, v in batch.items()}
    coverage = prove(network, inventory, two)
    recorder = Recorder()
    width = next(iter(J.values())).shape[1]
    with requiring_gradients(network, wanted=False):
        passed = Pass(network, coverage.layers, batch, recorder)
        assert not passed.failures
        for k in range(width):
            recorder.gradients.clear()
            s = torch.zeros_like(passed.f)
            s[:, k] = 1
            passed.backward(s, last=k == width - 1)
            for name, found in recorder.gradients.items():
                torch.testing.assert_close(
                    found,
                    J[name][:, k],
                    rtol=1e-6,
                    atol=1e-8,
                    msg=lambda m, n=name: n + m,
                )
    return recorder


def _check_block(artifact, name, block, J, recorder, count):
    factors = {n: f.to_dense() for n, f in artifact.factors.items()}
    if isinstance(block, GramianBlock):
        j = J[block.parameter]
        G = torch.einsum("ncp,ncq->pq", j, j) / count
        torch.testing.assert_close(factors[block.terms[0]], G, rtol=1e-6, atol=1e-8)
    else:
        assert isinstance(block, KroneckerBlock)
        ((a, b),) = block.terms
        A = recorder.inner[name] / recorder.positions[name]
        B = recorder.outer[name] / count
        torch.testing.assert_close(factors[a], A, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(factors[b], B, rtol=1e-6, atol=1e-8)


def randomised(module):
    """Draw every parameter and running statistic, so that no gradient vanishes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in [*module.named_parameters(), *module.named_buffers()]:
            if p.is_floating_point():
                noise = 0.3 * torch.randn(p.shape, generator=generator)
                one = "norm" in name.lower() or "scale" in name or "gamma" in name
                p.copy_((noise.abs() if "var" in name else noise) + one)
    return module
