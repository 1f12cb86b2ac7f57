"""curvlinops is an independent implementation; where it covers a module, we agree.

Conventions (its ``MSELoss(reduction="sum")``): its B is ours times 2 n, because it
sums over the data and the loss ``Σ (f - y)²`` has the Hessian 2 I; A is the same.
"""

from typing import Any

import pytest
import torch
from curvlinops import KFACLinearOperator
from torch import nn

from kfac_artifacts.artifact import Cotangents, NamedConfig
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests import models
from tests.computed import compute

EXACT = Cotangents("exact", None, 0)


class _Linears(nn.Module):
    """A transformer as a function of hidden states, for a library without masks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        hidden = self.module.encoder(x).last_hidden_state
        return hidden.mean(1)


def _model(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "mlp":
        layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4, bias=False), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(4, 3)), torch.randn(6, 5)
    if kind == "positions":
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        return model, torch.randn(6, 4, 5)
    return _Linears(models.tiny_bert()), torch.randn(6, 3, 8)


def _f(module: nn.Module, batch: Any) -> Any:
    z = module(batch["x"])
    return z.sum(1) if z.dim() == 3 else z


class _Mapped(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return _f(self.model, {"x": x})


@pytest.mark.parametrize("kind", ["mlp", "positions", "bert"])
def test_factors_agree_with_curvlinops(kind: str) -> None:
    model, x = _model(kind)
    model, x = model.double(), x.double()
    names = {
        f"{path}.{p}"
        for path, m in model.named_modules()
        if isinstance(m, nn.Linear)
        for p, _ in m.named_parameters()
    }
    network = Network(model, OutputMap(NamedConfig("f"), _f), kind)
    examples = TensorExamples({"x": x}, "x")
    artifact = compute(network, examples, only=tuple(names), cotangents=EXACT)
    blocks, theirs = list(artifact.blocks.items()), _theirs(model, names, x)
    assert blocks
    for name, block in blocks:
        ((a, b),) = block.terms
        A, B = theirs[name]
        n = len(x)
        torch.testing.assert_close(
            artifact.factors[a].to_dense(), A, rtol=1e-5, atol=1e-9
        )
        torch.testing.assert_close(
            artifact.factors[b].to_dense(), B / (2 * n), rtol=1e-5, atol=1e-9
        )


def _theirs(model: Any, names: Any, x: Any) -> Any:
    parameters = [p for n, p in model.named_parameters() if n in names]
    operator = KFACLinearOperator(
        _Mapped(model),
        nn.MSELoss(reduction="sum"),
        parameters,
        [(x, torch.zeros_like(_f(model, {"x": x})))],
        fisher_type="type-2",
        kfac_approx="expand",
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    operator.compute_kronecker_factors()
    return {
        name.removeprefix("model."): (
            operator._input_covariances[name],
            operator._gradient_covariances[name],
        )
        for name in operator._mapping
    }


def test_curvlinops_transformers_and_bitsandbytes_import_together() -> None:
    import bitsandbytes
    import curvlinops
    import transformers

    assert curvlinops
    assert transformers
    assert bitsandbytes
