"""Operators of curvlinops, against this package's factors of the same loss."""

from typing import Any

import pytest
import torch
from curvlinops import KFACLinearOperator
from torch import Tensor, nn

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges import About, artifact_of_operator
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate import Inputs, Kfac, KfacReduce
from tests.bridges.oracle import EXACT, OWN, require_same_products

TOLD = About(output_map=OWN, data="mine")


class Classifier(nn.Module):
    """Two maps on positions, and logits of their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh()).mean(1)


def x() -> Tensor:
    return torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(1))


def network(*, roots: bool) -> kfac.Network:
    def f(module: nn.Module, batch: kfac.network.Batch) -> Tensor:
        logits = module(batch["x"])
        return 2 * logits.softmax(-1).sqrt() if roots else logits

    return kfac.Network(Classifier(), kfac.OutputMap(OWN, f), "tiny/classifier")


def operator(loss: nn.Module, **options: Any) -> Any:
    module = Classifier()
    labels = torch.zeros(6, 3)
    if isinstance(loss, nn.CrossEntropyLoss):
        labels = torch.zeros(6, dtype=torch.long)
    settings = {"fisher_type": "type-2", "separate_weight_and_bias": False} | options
    parameters = [*module.parameters()]
    data = [(x()[:4], labels[:4]), (x()[4:], labels[4:])]
    return KFACLinearOperator(
        module, loss, parameters, data, check_deterministic=False, **settings
    )


def computed(estimator: Any, *, roots: bool) -> Artifact:
    examples = kfac.TensorExamples({"x": x()}, "mine")
    return kfac.compute(
        network(roots=roots),
        examples,
        cotangents=EXACT,
        estimator=estimator,
        allow_few=True,
    )


LOSSES = {
    "squares": nn.MSELoss(reduction="sum"),
    "entropy": nn.CrossEntropyLoss(reduction="sum"),
    "mean entropy": nn.CrossEntropyLoss(),
}


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@pytest.mark.parametrize("name", LOSSES)
def test_factors_are_in_our_normalisers(name: str, approximation: str) -> None:
    roots = name != "squares"
    made = operator(LOSSES[name], kfac_approx=approximation)
    found = artifact_of_operator(made, network(roots=roots), TOLD)
    estimator = {"expand": Kfac(), "reduce": KfacReduce()}[approximation]
    require_same_products(found, computed(estimator, roots=roots))
    assert found.provenance.estimator.name == estimator.name
    assert found.provenance.sources[0].cotangents == EXACT
    again = artifact_of_operator(made, network(roots=roots), TOLD)
    require_same_products(again, found)  # nothing was added up


def test_forward_only_is_of_inputs() -> None:
    made = operator(LOSSES["squares"], fisher_type="forward-only")
    found = artifact_of_operator(made, network(roots=False), About())
    require_same_products(found, computed(Inputs(), roots=False))
    assert found.provenance.estimator.name == "inputs"


def test_separate_biases_are_reported() -> None:
    made = operator(LOSSES["squares"], separate_weight_and_bias=True)
    found = artifact_of_operator(made, network(roots=False), TOLD)
    assert {*found.provenance.uncovered} == {"first.bias", "last.bias"}


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(SettingsError, match="which function f"):
        artifact_of_operator(operator(LOSSES["squares"]), network(roots=False), About())
    made = operator(nn.MSELoss())
    with pytest.raises(SettingsError, match="scale of MSELoss"):
        artifact_of_operator(made, network(roots=False), TOLD)
    with pytest.raises(SettingsError, match="Linear is no KFACLinearOperator"):
        artifact_of_operator(nn.Linear(1, 1), network(roots=False), TOLD)
