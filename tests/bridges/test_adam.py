"""Second moments of torch's own optimisers, as diagonals of the curvature."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kfac_artifacts as kfac
from kfac_artifacts.bridges import About
from kfac_artifacts.bridges.imports.adam import Adam
from kfac_artifacts.errors import FormatError, MismatchError
from tests.bridges.oracle import OWN, readout
from tests.models import tiny_bert

BATCH, STEPS, BETA = 6, 4, 0.9
TOLD = About(examples=24, output_map=OWN)


def network(module: nn.Module) -> kfac.Network:
    return kfac.Network(module, readout().output_map, "tiny/it")


def trained(module: nn.Module, parameters: Iterable[Any], path: Path) -> dict[str, Any]:
    """Save an optimiser after some steps, and give Σ (1 - β) β^… g² by hand."""
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.5, BETA))
    generator = torch.Generator().manual_seed(0)
    found = {n: torch.zeros_like(p) for n, p in module.named_parameters()}
    for _ in range(STEPS):
        for name, parameter in module.named_parameters():
            g = torch.randn(parameter.shape, generator=generator)
            parameter.grad = g
            found[name] = BETA * found[name] + (1 - BETA) * g**2
        optimizer.step()
    torch.save(optimizer.state_dict(), path)
    return found


def expected(moments: dict[str, Any]) -> dict[str, Any]:
    return {n: BATCH * v / (1 - BETA**STEPS) for n, v in moments.items()}


def two_groups(module: nn.Module) -> list[dict[str, Any]]:
    """As the Trainer of transformers makes them."""
    from transformers.trainer_pt_utils import get_parameter_names

    decayed = get_parameter_names(
        module, [nn.LayerNorm], [r"bias", r"layernorm", r"(?:^|\.)norm(?:$|\.)"]
    )
    parameters = dict(module.named_parameters())
    first = [p for n, p in parameters.items() if n in decayed]
    second = [p for n, p in parameters.items() if n not in decayed]
    return [{"params": first}, {"params": second, "weight_decay": 0.0}]


@pytest.mark.parametrize("groups", ["named", "plain", "two"])
def test_every_parameter_has_its_corrected_moments(groups: str, tmp_path: Path) -> None:
    module = tiny_bert()
    parameters: Any = {
        "named": lambda: [*reversed([*module.named_parameters()])],
        "plain": module.parameters,
        "two": lambda: two_groups(module),
    }[groups]()
    moments = expected(trained(module, parameters, tmp_path / "optimizer.pt"))
    found = Adam(BATCH).convert(tmp_path / "optimizer.pt", network(module), TOLD)
    assert {*found.parameters} == {*moments}
    tau = {n: torch.randn(s, generator=_seeded()) for n, s in found.parameters.items()}
    by_hand = sum((moments[n] * tau[n] ** 2).sum() for n in tau)
    torch.testing.assert_close(found.drift(tau), by_hand, rtol=1e-4, atol=0)
    query = found.blocks["encoder.layer.0.attention.self.query"]
    assert (query.kind, len(query.parameters)) == ("diagonal", 2)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_it_is_written_and_sound(tmp_path: Path) -> None:
    module = tiny_bert()
    trained(module, module.parameters(), tmp_path / "optimizer.pt")
    found = Adam(BATCH).convert(tmp_path / "optimizer.pt", network(module), TOLD)
    assert found.provenance.estimator.name == "diagonal"
    kfac.save_artifact(found, tmp_path / "found")
    assert all(finding.good for finding in kfac.verify(tmp_path / "found"))


def test_parameters_without_names_must_be_those_of_the_model(tmp_path: Path) -> None:
    module = tiny_bert()
    wider = nn.ModuleDict({"body": module, "head": nn.Linear(8, 2)})
    trained(wider, wider.parameters(), tmp_path / "optimizer.pt")
    with pytest.raises(MismatchError, match="save them with names"):
        Adam(BATCH).convert(tmp_path / "optimizer.pt", network(module), TOLD)


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    module = readout().module
    optimizer = torch.optim.SGD(module.named_parameters(), lr=0.1, momentum=0.9)
    module(torch.ones(1, 1, 4)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "sgd.pt")
    with pytest.raises(FormatError, match="no state of Adam"):
        Adam(BATCH).convert(tmp_path / "sgd.pt", network(module), TOLD)
