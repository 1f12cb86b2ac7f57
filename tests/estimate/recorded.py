"""What layers see, recorded in a pass of its own, against Jacobians by brute force."""

from collections import defaultdict

import torch

from kfac_artifacts.artifact import Cotangents, KroneckerBlock
from kfac_artifacts.capture.hooks import Pass, requiring_gradients
from kfac_artifacts.capture.layers.base import LooseParameter, TableLayer
from kfac_artifacts.capture.layers.inventory import take_inventory
from kfac_artifacts.capture.proof import prove

EXACT = Cotangents("exact", None, 0)
CLOSE = {"rtol": 1e-5, "atol": 1e-7}
"""Some norms compute in float32 whatever the network's type."""


class Recorder:
    """Keeps every input and every cotangent."""

    keeps_inputs = True

    def __init__(self):
        self.inputs = defaultdict(list)
        self.cotangents = defaultdict(list)

    def on_input(self, visit):
        self.inputs[visit.layer].append(visit)

    def on_cotangent(self, visit, g):
        self.cotangents[visit.layer].append((visit, g))


def jacobians(network, batch):
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


def check_against_brute_force(network, examples, artifact):
    """Check every covered block: gradients, A and B, and whole Gramians.

    Returns how many blocks there are of each kind.
    """
    n = len(examples)
    batch = examples.batch(range(n))
    layers = _proved(network, examples)
    by_name = {layer.name: layer for layer in layers}
    J = jacobians(network, batch)
    with requiring_gradients(network, wanted=False):
        recorder = Recorder()
        passed = Pass(network, layers, batch, recorder)
        C = passed.f.shape[1]
        for c in range(C):
            unit = torch.zeros_like(passed.f)
            unit[:, c] = 1
            recorder.cotangents.clear()
            passed.backward(unit, last=c == C - 1)
            _check_gradients(recorder, J, c)
            for layer, heard in recorder.cotangents.items():
                squares = [g.flatten(0, -2).mT @ g.flatten(0, -2) for _, g in heard]
                layer.squares = getattr(layer, "squares", 0) + sum(squares)
    counts = {"kronecker": 0, "gramian": 0}
    for name, block in artifact.blocks.items():
        counts[block.kind] += 1
        if isinstance(block, KroneckerBlock):
            mask = network.mask(batch)
            _check_pair(artifact, block, by_name[name], recorder, mask, n)
        else:
            rows = J[block.parameter].reshape(n, C, -1)
            G = torch.einsum("ncp,ncq->pq", rows, rows) / n
            found = artifact.factors[block.terms[0]].to_dense()
            torch.testing.assert_close(found, G, **CLOSE)
    return counts


def _proved(network, examples):
    inventory = take_inventory(network.module)
    batch = examples.batch([0, len(examples) - 1])
    return prove(network, inventory, batch).layers


def _check_gradients(recorder, J, c):
    """Σ_t g_t a_tᵀ of every example is its row of the Jacobian."""
    seen = {}
    for layer, heard in recorder.cotangents.items():
        for visit, g in heard:
            found = layer.gradients(visit.a, g)
            for role, name in layer.parameters.items():
                key = (name, getattr(layer, "part", None))
                seen[key] = seen.get(key, 0) + found[role]
    assert seen
    for (name, part), gradient in seen.items():
        actual = J[name][:, c] if part is None else J[name][:, c, part]
        torch.testing.assert_close(gradient, actual.reshape(gradient.shape), **CLOSE)


def _check_pair(artifact, block, layer, recorder, mask, n):
    ((a, b),) = block.terms
    B = artifact.factors[b].to_dense()
    torch.testing.assert_close(B, layer.squares / n)
    visits = recorder.inputs[layer]
    rows = torch.cat([_rows(layer, visit, block, mask) for visit in visits])
    A = rows.mT @ rows / max(len(rows), 1)
    torch.testing.assert_close(artifact.factors[a].to_dense(), A)


def _rows(layer, visit, block, mask):
    """The real positions: the mask's, unless there are others or they are routed."""
    a = visit.a
    mask = visit.mask if block.part is not None else mask
    mask = None if isinstance(layer, LooseParameter) else mask
    if isinstance(layer, TableLayer | LooseParameter):
        one_hot = torch.nn.functional.one_hot(a.clamp(min=0), layer.rows)
        a = one_hot.double() * (a >= 0)[..., None]
    fits = mask is not None and a.shape[:2] == mask.shape
    rows = a[mask] if fits else a.flatten(0, 1)
    if block.bias is None:
        return rows
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
