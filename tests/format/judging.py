"""What becomes of an artifact in every use: refused by name, or right and finite."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import reader
import torch

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import Recipe, save_artifact
from kfac_artifacts.errors import KfacError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests.artifacts import written_out

RECIPES = ["int8", "bfloat16", "low-rank-1+int8", "svd-1", "block-2", "prune-30%"]
RECIPES += ["diagonal", "low-rank-trace-90%", "block-2-correlated+float16"]
SLACK = 2e-2
"""How negative a penalty may be, as a share of the product of all norms."""


def judged(path: Path, seed: int) -> str:
    """Put an artifact to every use.

    Returns:
        ``refused`` if it may not be used at all, ``allowed`` if only as indefinite
        curvature, ``too large`` if only to look at, ``sound`` otherwise.
    """
    refused = opened = None
    try:
        opened = load_artifact(path)
        for name in opened.factors:
            opened.factors[name]
    except KfacError as error:
        refused = error
    if opened is None or refused is not None:
        assert len(str(refused)) > 10
        assert any(not finding.good for finding in verify(path))
        return "refused"
    artifact = opened
    again = reader.read(path)
    for name, factor in artifact.factors.items():
        close = np.allclose(
            factor.to_dense().numpy(), written_out(again[name]), rtol=1e-5
        )
        assert close, f"{name} is read otherwise"
    good = all(finding.good for finding in verify(path))
    used_elsewhere(artifact, path, seed, good=good)
    return penalised(artifact, good=good)


def penalised(artifact: Artifact, *, good: bool) -> str:
    """Evaluate penalty, gradient and operator; nothing may be infinite."""
    try:
        penalty = KfacPenalty(artifact)
    except KfacError as error:
        if "indefinite" not in str(error):
            return "too large"
        sums = any(len(b.factors) > 2 for b in artifact.blocks.values())
        assert sums or not good, "verify accepts what training refuses"
        return "allowed"
    assert good, "training accepts what verify refuses"
    generator = torch.Generator().manual_seed(0)
    for size in (1.0, 1e-3, 1e3):
        tau = {
            name: (size * torch.randn(shape, generator=generator)).requires_grad_()
            for name, shape in artifact.parameters.items()
        }
        value = penalty(tau)
        value.backward()
        assert value.isfinite()
        bound = sum(
            float(tau[p].detach().square().sum()) for p in penalty.parameters
        ) * sum(
            np.prod([float(penalty.factors[f].to_dense().double().norm()) for f in b])
            for b in (block.factors[:2] for block in artifact.blocks.values())
        )
        assert float(value.detach()) >= -SLACK * bound, "drift is rewarded"
        assert all(t.grad.isfinite().all() for t in tau.values() if t.grad is not None)
    operator = CurvatureOperator(artifact, damping=1e-3)
    assert operator.matvec(torch.ones(operator.shape[1])).isfinite().all()
    return "sound"


def used_elsewhere(artifact: Artifact, path: Path, seed: int, *, good: bool) -> None:
    """Merge with a good one, take it out again, and compress: right or refused."""
    partner = path.with_name(path.name + "-partner")
    shutil.copytree(path, partner)
    file = partner / "kfac.json"
    value = json.loads(file.read_text())
    for i, source in enumerate(value["sources"]):
        source["data"]["fingerprint"] = f"{i:064x}"
        source["data"]["id"] = f"partner {i}"
    file.write_text(json.dumps(value))

    def merged() -> Artifact:
        return merge([artifact, load_artifact(partner)])

    def without() -> Artifact:
        save_artifact(merged(), path.with_name(path.name + "-total"))
        total = load_artifact(path.with_name(path.name + "-total"))
        return merge([total], exclude=[load_artifact(partner)])

    def compressed() -> Artifact:
        target = path.with_name(path.name + "-small")
        recipe = Recipe.parse(RECIPES[seed % len(RECIPES)])
        save_artifact(artifact, target, recipe=recipe)
        return load_artifact(target)

    for number, make in enumerate((merged, without, compressed)):
        derived(make, path.with_name(f"{path.name}-{number}"), good=good)


def derived(make: Callable[[], Artifact], place: Path, *, good: bool) -> None:
    """What is made of an artifact can be saved and is finite, or is refused."""
    try:
        made = make()
        save_artifact(made, place)
        saved = load_artifact(place)
        factors = {name: saved.factors[name] for name in saved.factors}
    except KfacError:
        return
    assert all(f.to_dense().isfinite().all() for f in factors.values())
    if good:
        bad = [finding for finding in verify(place) if not finding.good]
        assert not bad, f"what was made of a good one is not good: {bad}"
