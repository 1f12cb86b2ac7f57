"""Layers that no gradient reaches: blocks of zeros, never NaN, in all that is done."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.artifact import Cotangents, LinearBlock, NamedConfig
from kfac_artifacts.compress import Recipe, compress, save_artifact
from kfac_artifacts.estimate import Ekfac, Kfac, KfacReduce, Nearest
from kfac_artifacts.fidelity import fidelity
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests import models
from tests.capture.test_text_models import mean_pool
from tests.computed import compute

DRAWS = Cotangents("orthogonal", 1, 0)
ESTIMATORS = [
    Kfac(),
    KfacReduce(),
    Ekfac(),
    *[Nearest(terms=t, shrinkage=s) for t in (1, 2, 3) for s in (True, False)],
]
RECIPES = ["low-rank-1+int8", "svd-50%", "block-2", "prune-50%", "diagonal+float16"]
FOR_EIGENVECTORS = RECIPES[:2]


class Silent(nn.Module):
    """A dead ReLU, a closed gate, a zero ΔW of LoRA, inputs of zeros, padding only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.dead, self.gated = nn.Linear(4, 4), nn.Linear(4, 4)
        self.gate = nn.Parameter(torch.zeros(4))
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.empty = nn.Linear(4, 4, bias=False)
        self.table = nn.Embedding(5, 4, padding_idx=0)
        self.norm = nn.LayerNorm(4)
        nn.init.zeros_(self.up.weight)
        nn.init.constant_(self.dead.bias, -100.0)

    def forward(self, x: Any, ids: Any) -> Any:
        z = torch.tanh(self.first(x))
        z = z + torch.relu(self.dead(z)) + self.gate * self.gated(z)
        z = z + self.up(self.down(z)) + self.empty(0 * z) + self.table(ids)
        return self.last(self.norm(z)).sum(1)


def network(*, closed: bool, dtype: torch.dtype = torch.float32) -> Network:
    torch.manual_seed(0)
    module = Silent().to(dtype)
    if closed:
        nn.init.zeros_(module.last.weight)
    f = OutputMap(NamedConfig("f"), lambda m, b: m(b["x"], b["ids"]))
    return Network(module, f, "silent")


def examples(seed: int = 0) -> TensorExamples:
    x = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(seed))
    return TensorExamples({"x": x, "ids": torch.zeros(8, 3).long()}, f"data {seed}")


def assert_finite(artifact: Any) -> None:
    for name in artifact.factors:
        assert artifact.factors[name].to_dense().isfinite().all(), name


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_layers_without_a_gradient_are_blocks_of_zeros(
    estimator: Any, closed: Any
) -> None:
    artifact = compute(
        network(closed=closed), examples(), estimator=estimator, cotangents=DRAWS
    )
    assert_finite(artifact)
    silent = {"dead", "gated", "down", "table"} | ({"first"} if closed else set())
    for name in silent:
        block = artifact.blocks[name]
        assert isinstance(block, LinearBlock)
        for a, b, *_ in block.terms:
            assert not artifact.factors[b].to_dense().any() or name == "table"
            assert (
                torch.kron(*(artifact.factors[n].to_dense() for n in (b, a))).norm()
                == 0
            )
    for name in artifact.factors:
        dense = artifact.factors[name].to_dense().double()
        if estimator.settings().get("terms", 1) == 1:
            assert torch.linalg.eigvalsh(dense).min() >= -1e-5 * dense.norm()


@pytest.mark.parametrize("estimator", [ESTIMATORS[0], ESTIMATORS[2]], ids=str)
@pytest.mark.parametrize("closed", [False, True])
def test_all_that_is_done_with_zeros_is_finite(
    estimator: Any, closed: Any, tmp_path: Path
) -> None:
    used = network(closed=closed)
    one, two = (
        compute(used, examples(seed), estimator=estimator, cotangents=DRAWS)
        for seed in (0, 1)
    )
    both = merge([one, two])
    assert_finite(both)
    assert all(math.isfinite(e.relative) for e in both.provenance.merge_errors.values())
    tau = {n: torch.ones_like(p) for n, p in used.parameters().items()}
    found = [one, both]
    for text in FOR_EIGENVECTORS if estimator.name == "ekfac" else RECIPES:
        (tmp_path / text).mkdir()
        found.append(compress(one, Recipe.parse(text), tmp_path / text))
        assert_finite(found[-1])
    for number, artifact in enumerate(found):
        assert KfacPenalty(artifact)(tau).isfinite()
        save_artifact(artifact, tmp_path / str(number))
        assert all(finding.good for finding in verify(tmp_path / str(number)))
    measured = fidelity(one, used, examples(2), directions=2)
    assert math.isfinite(measured.total.norm)


def test_an_expert_that_no_token_has_reached_is_zero_under_nearest() -> None:
    module = models.tiny("gpt-oss", dtype=torch.float32)
    with torch.no_grad():
        module.get_submodule("layers.0.mlp.router").bias[3] = -1000
    f = OutputMap(NamedConfig("f"), mean_pool)
    used = Network(module, f, "gpt-oss")
    batch = {k: torch.cat([v, v.flip(0)]) for k, v in models.text_batch().items()}
    six = TensorExamples(batch, "six")
    artifact = compute(used, six, estimator=Nearest(), cotangents=DRAWS)
    assert_finite(artifact)
    block = artifact.blocks["layers.0.mlp.experts.down_proj.3"]
    assert all(not artifact.factors[n].to_dense().any() for n in block.factors)
