"""Coverage is proved: what a layer does not see is reported, never added up wrongly."""

from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.artifact import Cotangents, NamedConfig
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.errors import CoverageError, KfacError, SourceError
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests.brute_force import gramian, jacobians
from tests.computed import compute

EXACT = Cotangents("exact", None, 0)
OUTSIDE = "f also uses it outside its module (tied or fused weights)"


def run(module: nn.Module, x: Any, **options: Any) -> Any:
    network = Network(
        module.double(), OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "toy"
    )
    examples = TensorExamples({"x": x}, "x")
    return network, compute(network, examples, cotangents=EXACT, **options)


def numbers(*shape: Any) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


def kron(artifact: Any, name: str) -> Any:
    ((a, b),) = artifact.blocks[name].terms
    return torch.kron(artifact.factors[b].to_dense(), artifact.factors[a].to_dense())


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Any) -> Any:
        return self.out(self.table(ids).mean(1))


def test_a_table_tied_to_the_output_is_reported() -> None:
    with pytest.raises(CoverageError, match="tied or fused"):
        run(_Tied(), torch.tensor([[0, 1], [2, 3], [3, 4]]))


class _HalfTied(nn.Module):
    """Two linear maps with one weight, and a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.two(torch.tanh(self.one(x))))


def test_no_parameter_of_a_half_tied_module_is_skipped_in_silence() -> None:
    network, artifact = run(_HalfTied(), numbers(3, 4))
    uncovered = artifact.provenance.uncovered
    assert set(artifact.parameters) | set(uncovered) == set(network.parameters())
    assert uncovered["one.weight"] == OUTSIDE
    assert "shares a weight" in uncovered["two.bias"]


class _TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight, self.two.bias = self.one.weight, self.one.bias

    def forward(self, x: Any) -> Any:
        return self.two(torch.tanh(self.one(x)))


class _CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Any) -> Any:
        return self.norm(self.layer(torch.tanh(self.layer(self.norm(x)))))


@pytest.mark.parametrize(
    ("kind", "name"), [(_TwoNames, "one"), (_CalledTwice, "layer")]
)
def test_calls_of_a_shared_linear_add_up_like_positions(kind: str, name: str) -> None:
    module = kind()
    network, artifact = run(module, numbers(3, 4))
    assert artifact.provenance.uncovered == {}
    layer = module.get_submodule(name)
    seen = []
    modules = {id(m): m for m in (layer, getattr(module, "two", layer))}.values()
    hooks = [
        m.register_forward_hook(lambda _m, args, _z: seen.append(args[0]))
        for m in modules
    ]
    network({"x": numbers(3, 4)})
    for hook in hooks:
        hook.remove()
    a = torch.cat([torch.cat(seen), torch.ones(6, 1).double()], dim=1)
    ((factor, _),) = artifact.blocks[name].terms
    torch.testing.assert_close(
        artifact.factors[factor].to_dense(), (a.mT @ a / 6).detach()
    )


def test_calls_of_a_shared_norm_add_up_before_they_are_squared() -> None:
    network, artifact = run(_CalledTwice(), numbers(3, 4))
    J = jacobians(network, {"x": numbers(3, 4)})
    for name in ("norm.weight", "norm.bias"):
        G = artifact.factors[f"{name}.G"].to_dense()
        torch.testing.assert_close(G, gramian(J[name]))


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.dead = nn.Linear(4, 3)
        self.detached = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.used(x) + 0 * self.detached(x).detach()


def test_branches_that_do_not_reach_f_are_reported() -> None:
    _, artifact = run(_Branches(), numbers(3, 4))
    assert set(artifact.parameters) == {"used.weight", "used.bias"}
    assert set(artifact.provenance.uncovered.values()) == {"f does not depend on it"}


class _Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x) + x @ self.layer.weight)


def test_a_weight_used_beside_its_module_is_reported() -> None:
    _, artifact = run(_Functional(), numbers(3, 4))
    assert artifact.provenance.uncovered["layer.weight"] == OUTSIDE
    assert "head.weight" in artifact.parameters


def test_excluded_parameters_are_listed_apart() -> None:
    _, artifact = run(_Branches(), numbers(3, 4), exclude=("dead.*", "*.bias"))
    assert artifact.provenance.excluded == (
        "used.bias",
        "dead.weight",
        "dead.bias",
        "detached.bias",
    )
    assert set(artifact.parameters) == {"used.weight"}
    ((a, _),) = artifact.blocks["used"].terms
    assert artifact.factors[a].dim == 4


def test_modules_with_the_same_input_share_one_factor() -> None:
    from tests import models

    module = models.tiny_bert(dtype=torch.float64)
    network = Network(
        module,
        OutputMap(NamedConfig("f"), lambda m, b: m(**b).last_hidden_state[:, 0]),
        "b",
    )
    artifact = compute(network, TensorExamples(models.text_batch(), "t"))
    path = "encoder.layer.0.attention.self"
    names = {
        artifact.blocks[f"{path}.{m}"].terms[0][0] for m in ("query", "key", "value")
    }
    assert names == {f"{path}.query.A"}


def test_outputs_that_are_not_finite_are_refused() -> None:
    x = numbers(5, 4)
    x[2, 1] = float("nan")
    with pytest.raises(KfacError, match="not finite for example 2"):
        run(_Branches(), x)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(CoverageError, match=r"no parameter is called 'heads\.\*'"):
        run(_Branches(), numbers(3, 4), exclude=("heads.*",))


def test_examples_are_chosen_by_the_seed_alone() -> None:
    assert (
        choose_examples(100, 10, 0)
        == choose_examples(100, 10, 0)
        != choose_examples(100, 10, 1)
    )
    assert choose_examples(5, 10, 0) == [0, 1, 2, 3, 4]
    assert len(set(choose_examples(1000, 256, 3))) == 256
    with pytest.raises(SourceError, match="no examples"):
        choose_examples(0, 10, 0)


@pytest.mark.parametrize("padding", ["valid", 1])
def test_convolutions_are_linear_maps_of_patches(padding: Any) -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 2, stride=2, padding=padding)

        def forward(self, x: Any) -> Any:
            return self.conv(x).mean((2, 3))

    x = numbers(1, 2, 2, 2)
    network, artifact = run(Patches(), x)
    assert artifact.provenance.uncovered == {}
    if padding == "valid":  # one example, one position: the factors are the Gramian
        J = jacobians(network, {"x": x})
        weight = J["conv.weight"][0].flatten(2)
        rows = torch.cat([weight, J["conv.bias"][0][..., None]], dim=-1).flatten(1)
        torch.testing.assert_close(kron(artifact, "conv"), rows.mT @ rows)


def test_f_is_in_evaluation_mode_whatever_the_mode_of_the_module() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    network = Network(
        module, OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "toy"
    )
    batch = {"x": numbers(3, 4).float()}
    assert torch.equal(network(batch), module[0](batch["x"]))
    assert torch.equal(network.functional_call({}, batch), module[0](batch["x"]))
    assert module.training
    assert module[1].training
