"""What sites see, recorded in a pass of its own, against Jacobians by brute force."""

from collections import defaultdict

import torch

from kfac_artifacts.artifact import Cotangents, KroneckerBlock
from kfac_artifacts.estimate.coverage.proof import prove
from kfac_artifacts.estimate.passes.single import Pass, requiring_gradients
from kfac_artifacts.estimate.sites.base import LooseSite, TableSite
from kfac_artifacts.estimate.sites.inventory import take_inventory

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
        self.inputs[visit.site].append(visit)

    def on_cotangent(self, visit, g):
        self.cotangents[visit.site].append((visit, g))


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
    sites = _proved(network, examples)
    by_name = {site.name: site for site in sites}
    J = jacobians(network, batch)
    with requiring_gradients(network, wanted=False):
        recorder = Recorder()
        passed = Pass(network, sites, batch, recorder)
        C = passed.f.shape[1]
        for c in range(C):
            unit = torch.zeros_like(passed.f)
            unit[:, c] = 1
            recorder.cotangents.clear()
            passed.backward(unit, last=c == C - 1)
            _check_gradients(recorder, J, c)
            for site, heard in recorder.cotangents.items():
                squares = [g.flatten(0, -2).mT @ g.flatten(0, -2) for _, g in heard]
                site.squares = getattr(site, "squares", 0) + sum(squares)
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
    return prove(network, inventory, batch).sites


def _check_gradients(recorder, J, c):
    """Σ_t g_t a_tᵀ of every example is its row of the Jacobian."""
    seen = {}
    for site, heard in recorder.cotangents.items():
        for visit, g in heard:
            found = site.gradients(visit.a, g)
            for role, name in site.parameters.items():
                key = (name, getattr(site, "part", None))
                seen[key] = seen.get(key, 0) + found[role]
    assert seen
    for (name, part), gradient in seen.items():
        actual = J[name][:, c] if part is None else J[name][:, c, part]
        torch.testing.assert_close(gradient, actual.reshape(gradient.shape), **CLOSE)


def _check_pair(artifact, block, site, recorder, mask, n):
    ((a, b),) = block.terms
    B = artifact.factors[b].to_dense()
    torch.testing.assert_close(B, site.squares / n)
    visits = recorder.inputs[site]
    rows = torch.cat([_rows(site, visit, block, mask) for visit in visits])
    A = rows.mT @ rows / max(len(rows), 1)
    torch.testing.assert_close(artifact.factors[a].to_dense(), A)


def _rows(site, visit, block, mask):
    """The real positions: the mask's, unless there are others or they are routed."""
    a = visit.a
    mask = visit.mask if block.part is not None else mask
    mask = None if isinstance(site, LooseSite) else mask
    if isinstance(site, TableSite | LooseSite):
        one_hot = torch.nn.functional.one_hot(a.clamp(min=0), site.rows)
        a = one_hot.double() * (a >= 0)[..., None]
    fits = mask is not None and a.shape[:2] == mask.shape
    rows = a[mask] if fits else a.flatten(0, 1)
    if block.bias is None:
        return rows
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
