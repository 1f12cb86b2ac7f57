"""The penalty of the regime lora is that of its products, of which none is formed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.network import Network
from kfac_artifacts.train import PenaltySettings, choose_regime
from kfac_artifacts.train.penalties import Others
from kfac_artifacts.train.penalties.kfac import KfacDrift
from kfac_artifacts.train.products import Products
from tests.language.heads import network_of
from tests.tuning.adapted import curvature_of

MODELS = ["BertForMaskedLM", "GPT2LMHeadModel"]
"""Linear maps with biases, and ``Conv1D``, whose weights are transposed."""
ESTIMATORS = ["kfac", "nearest", "ekfac", "inputs", "diagonal"]


def moving(network: Network, curvature: Artifact) -> Any:
    """The regime, with changes that are not zero."""
    regime = choose_regime("lora", rank=2, alpha=3.0)(network, [*curvature.parameters])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in regime.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * drawn)
    return regime


def penalty_of(network: Network, curvature: Artifact, regime: Any) -> KfacDrift:
    found = KfacDrift(Others((curvature,)), PenaltySettings(1.0))
    found.prepare(network, regime.names)
    return found


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", MODELS)
def test_value_and_gradient_are_those_of_the_formed_change(
    name: str, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"tie_word_embeddings": False} if name == "BertForMaskedLM" else {}
    network = network_of(name, "lm-fisher", **options)
    curvature = curvature_of(name, estimator)
    regime = moving(network, curvature)
    held = penalty_of(network, curvature, regime)
    wanted = held(regime.tau())
    gradients = torch.autograd.grad(7 * wanted, [*regime.parameters()])

    def wrong(self: Products, name: str) -> Tensor:
        """What would be penalised if it were formed; types are checked by it."""
        return torch.zeros(())

    monkeypatch.setattr(Products, "__getitem__", wrong)
    for _ in range(2):  # the second time with the factors that the first one has put by
        for parameter in regime.parameters():
            parameter.grad = None
        held.backward(regime.change(), 7.0)
        for parameter, gradient in zip(regime.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
    torch.testing.assert_close(held(regime.change()), wanted)


def test_a_formed_change_is_taken_after_products_and_with_factors_in_the_host() -> None:
    name = "GPT2LMHeadModel"
    network, curvature = network_of(name, "lm-fisher"), curvature_of(name)
    regime = moving(network, curvature)
    held = penalty_of(network, curvature, regime)
    value = held(regime.change())
    torch.testing.assert_close(held(regime.tau()), value)
    there = KfacDrift(Others((curvature,)), PenaltySettings(1.0, factors="host"))
    there.prepare(network, regime.names)
    torch.testing.assert_close(there(regime.change()), value)
