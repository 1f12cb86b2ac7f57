"""The curvlinops engine gives our factors where it may, else says why not."""

from contextlib import nullcontext
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts import curvlinops_adapter
from kfac_artifacts.artifact import Cotangents, NamedConfig
from kfac_artifacts.errors import CoverageError, KfacError, SettingsError
from kfac_artifacts.estimate import KfacReduce, Nearest
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests import models
from tests.computed import compute, compute_with_curvlinops

EXACT = Cotangents("exact", None, 0)


def numbers(*shape: Any) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


def network_of(module: nn.Module, f: Any = lambda m, b: m(b["x"])) -> Any:
    torch.manual_seed(0)
    return Network(module.double(), OutputMap(NamedConfig("f"), f), "toy")


def mlp() -> Any:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4, bias=False), nn.Tanh()]
    module = nn.Sequential(*layers, nn.Linear(4, 3))
    return network_of(module), TensorExamples({"x": numbers(7, 5)}, "x")


def convolutions() -> Any:
    torch.manual_seed(0)
    first = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    second = nn.Conv2d(3, 4, 2, padding="valid", bias=False)
    module = nn.Sequential(
        first, nn.ReLU(inplace=True), second, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    )
    return network_of(module), TensorExamples({"x": numbers(7, 2, 6, 6)}, "x")


def bert() -> Any:
    network = network_of(
        models.tiny_bert(), lambda m, b: m(**b).last_hidden_state.mean(1)
    )
    ids = torch.randint(4, 20, (7, 5), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return network, TensorExamples(inputs, "x")


NETWORKS = {"mlp": mlp, "convolutions": convolutions, "bert": bert}


def covered_by_both(ours: Any, theirs: Any) -> Any:
    """The blocks of Linear and Conv2d modules; curvlinops must have them all."""
    names = [
        name
        for name, block in ours.blocks.items()
        if block.kind == "kronecker" and "embeddings" not in name
    ]
    assert list(theirs.blocks) == names
    return names


@pytest.mark.parametrize("kind", NETWORKS)
def test_exact_factors_are_those_of_our_engine(kind: str) -> None:
    network, examples = NETWORKS[kind]()
    ours = compute(network, examples, cotangents=EXACT)
    theirs = compute_with_curvlinops(network, examples, cotangents=EXACT, batch_size=3)
    for name in covered_by_both(ours, theirs):
        assert theirs.blocks[name] == ours.blocks[name]
        for factor in ours.blocks[name].factors:
            torch.testing.assert_close(
                theirs.factors[factor].to_dense(),
                ours.factors[factor].to_dense(),
                rtol=1e-5,
                atol=1e-9,
            )
    assert set(theirs.factors) <= set(ours.factors)
    assert theirs.provenance.sources == ours.provenance.sources
    assert theirs.provenance.size == ours.provenance.size


def test_reduced_factors_are_those_of_averaged_inputs_and_summed_cotangents() -> None:
    class Lengths(TensorExamples):
        def batch(self, indices: Any) -> Any:
            values = super().batch(indices)["x"]
            return {"x": values[:, : 2 + indices[0] % 3]}

    torch.manual_seed(0)
    module = nn.Linear(3, 2).double()
    network = network_of(module, lambda m, b: torch.tanh(m(b["x"])).sum(1))
    examples = Lengths({"x": numbers(5, 4, 3)}, "x")
    found = compute_with_curvlinops(
        network,
        examples,
        estimator=KfacReduce(),
        cotangents=EXACT,
        batch_size=1,
    )
    ((a, b),) = next(iter(found.blocks.values())).terms
    xs = [examples.batch([i])["x"][0] for i in range(5)]
    means = torch.stack([torch.cat([x.mean(0), x.new_ones(1)]) for x in xs])
    torch.testing.assert_close(found.factors[a].matrix, means.mT @ means / 5)  # type: ignore[attr-defined]
    with torch.no_grad():  # d f_c / d z_tc = 1 - tanh² z_tc
        slopes = [(1 - torch.tanh(module(x)).square()).sum(0) for x in xs]
    expected = torch.diag(torch.stack(slopes).square().mean(0))
    torch.testing.assert_close(found.factors[b].matrix, expected)  # type: ignore[attr-defined]
    assert found.provenance.estimator.name == "kfac-reduce"


def test_texts_of_several_lengths_are_exact_one_by_one() -> None:
    class Texts(TensorExamples):
        def batch(self, indices: Any) -> Any:
            batch = super().batch(indices)
            longest = int(batch["attention_mask"].sum(1).max())
            return {name: values[:, :longest] for name, values in batch.items()}

    def f(m: Any, b: Any) -> Any:
        mask = b["attention_mask"][..., None]
        return (m(**b).last_hidden_state * mask).sum(1)

    network = network_of(models.tiny_bert(), f)
    examples = Texts(models.text_batch(), "x")
    only = ("encoder.*",)
    ours = compute(network, examples, cotangents=EXACT, only=only)
    theirs = compute_with_curvlinops(
        network, examples, cotangents=EXACT, only=only, batch_size=1
    )
    for name in covered_by_both(ours, theirs):
        for factor in ours.blocks[name].factors:
            torch.testing.assert_close(
                theirs.factors[factor].matrix,  # type: ignore[attr-defined]
                ours.factors[factor].matrix,  # type: ignore[attr-defined]
            )
    with pytest.raises(CoverageError, match="examples 0 to 1 is padded"):
        compute_with_curvlinops(network, examples, only=only, batch_size=2)


def test_padding_is_harmless_where_no_layer_has_positions() -> None:
    network = network_of(
        nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
        lambda m, b: m((b["x"] * b["attention_mask"][..., None]).sum(1)),
    )
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    examples = TensorExamples({"x": numbers(3, 3, 5), "attention_mask": mask}, "x")
    ours = compute(network, examples, cotangents=EXACT)
    theirs = compute_with_curvlinops(network, examples, cotangents=EXACT)
    for name, factor in ours.factors.items():
        torch.testing.assert_close(theirs.factors[name].matrix, factor.matrix)  # type: ignore[attr-defined]


def test_draws_are_unbiased_and_follow_their_seed() -> None:
    network, examples = mlp()
    exact = compute_with_curvlinops(network, examples, cotangents=EXACT)

    def drawn(seed: int, draws: int = 4) -> Any:
        return (
            compute_with_curvlinops(  # type: ignore[attr-defined]
                network,
                examples,
                cotangents=Cotangents("mc", draws, seed),
                batch_size=3,
            )
            .factors["0.B"]
            .matrix
        )

    torch.testing.assert_close(drawn(0), drawn(0), rtol=0, atol=0)
    assert not torch.allclose(drawn(0), drawn(1))
    expected = exact.factors["0.B"].matrix  # type: ignore[attr-defined]
    mean = torch.stack([drawn(seed) for seed in range(100)]).mean(0)
    assert (mean - expected).norm() < 0.1 * expected.norm()
    assert (drawn(0) - expected).norm() > 0.1 * expected.norm()


def test_draws_of_different_batches_differ() -> None:
    network, examples = mlp()
    same = TensorExamples({"x": examples.tensors["x"][:1].expand(2, -1)}, "x")
    one = Cotangents("mc", 1, 0)
    by_one = compute_with_curvlinops(network, same, cotangents=one, batch_size=1)
    assert torch.linalg.matrix_rank(by_one.factors["4.B"].matrix) == 2  # type: ignore[attr-defined]


def test_what_curvlinops_does_not_cover_is_reported() -> None:
    network, examples = bert()
    ours = compute(network, examples, cotangents=EXACT)
    theirs = compute_with_curvlinops(
        network, examples, cotangents=EXACT, exclude=("encoder.layer.0.*",)
    )
    reasons = theirs.provenance.uncovered
    norm = "embeddings.LayerNorm.weight"
    assert reasons[norm] == "curvlinops does not cover LayerNorm"
    table = "embeddings.word_embeddings.weight"
    assert reasons[table] == "curvlinops does not cover Embedding"
    excluded = set(theirs.provenance.excluded)
    everything = {*theirs.parameters, *reasons, *excluded}
    assert everything == {*ours.parameters, *ours.provenance.uncovered}
    assert all(name.startswith("encoder.layer.0.") for name in excluded)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.middle = nn.Linear(4, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Any) -> Any:
        return self.out(torch.tanh(self.middle(self.table(ids).mean(1))))


def test_tied_weights_are_reported() -> None:
    examples = TensorExamples({"x": torch.tensor([[0, 1], [2, 3], [3, 4]])}, "x")
    found = compute_with_curvlinops(network_of(_Tied()), examples, cotangents=EXACT)
    assert list(found.blocks) == ["middle"]
    assert "tied or fused" in found.provenance.uncovered["table.weight"]


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.attention(x, x, x)[0].mean(1))


def test_fused_attention_is_reported() -> None:
    found = compute_with_curvlinops(
        network_of(_Attention()),
        TensorExamples({"x": numbers(3, 2, 4)}, "x"),
        cotangents=EXACT,
    )
    assert list(found.blocks) == ["head"]
    reason = found.provenance.uncovered["attention.out_proj.weight"]
    assert "not called" in reason


class _Unusual(nn.Module):
    """A module used twice, two with one weight, one called by keyword, a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.one = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight, self.other.bias = self.one.weight, self.one.bias
        self.keyword = nn.Linear(4, 4)
        self.plain = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        x = torch.tanh(self.other(torch.tanh(self.one(x))))
        return self.plain(torch.tanh(self.keyword(input=x)))


def test_unusual_uses_of_a_module_are_reported() -> None:
    network = network_of(_Unusual())
    examples = TensorExamples({"x": numbers(3, 4)}, "x")
    ours = compute(network, examples, cotangents=EXACT)
    assert {"twice", "one", "keyword", "plain"} == set(ours.blocks)
    theirs = compute_with_curvlinops(network, examples, cotangents=EXACT)
    assert list(theirs.blocks) == ["plain"]
    reasons = theirs.provenance.uncovered
    assert "one use in a forward pass, not 2" in reasons["twice.weight"]
    assert "share their parameters" in reasons["one.weight"]
    assert "by keyword" in reasons["keyword.bias"]


def state(network: Network) -> Any:
    modules = network.module.modules()
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in modules]
    parameters = network.parameters().items()
    flags = {n: (p.requires_grad, p.grad) for n, p in parameters}
    return hooks, flags, [m.training for m in network.module.modules()]


def test_the_model_is_left_as_it_was_found_even_after_an_error() -> None:
    network, examples = mlp()
    network.module.train()
    network.parameters()["0.weight"].requires_grad_(False)
    before = state(network)
    with torch.no_grad():
        compute_with_curvlinops(network, examples)
    assert state(network) == before
    broken = examples.tensors["x"].clone()
    broken[3] = torch.inf
    with pytest.raises(KfacError, match="not finite"):
        compute_with_curvlinops(network, TensorExamples({"x": broken}, "x"))
    assert state(network) == before


def test_progress_counts_examples() -> None:
    network, examples = mlp()
    seen: list[Any] = []
    compute_with_curvlinops(
        network,
        examples,
        count=5,
        batch_size=3,
        progress=lambda stage, total: nullcontext(seen.append),
    )
    assert seen == [3, 2]


def test_what_it_cannot_do_is_refused() -> None:
    network, examples = mlp()
    with pytest.raises(SettingsError, match="nearest"):
        compute_with_curvlinops(network, examples, estimator=Nearest())
    with pytest.raises(SettingsError, match="orthogonal"):
        compute_with_curvlinops(
            network, examples, cotangents=Cotangents("orthogonal", 1, 0)
        )
    network.module.bfloat16()
    with pytest.raises(SettingsError, match="bfloat16"):
        compute_with_curvlinops(network, examples)


def test_nothing_to_cover_is_an_error() -> None:
    network, examples = bert()
    with pytest.raises(CoverageError, match="curvlinops does not cover LayerNorm"):
        compute_with_curvlinops(network, examples, only=("*LayerNorm*",))


def test_without_curvlinops_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    network, examples = mlp()
    with pytest.raises(SettingsError, match=r"pip install 'kfac-artifacts\[curvlinops"):
        compute_with_curvlinops(network, examples)


def test_another_curvlinops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import curvlinops

    monkeypatch.delattr(curvlinops, "KFACLinearOperator")
    network, examples = mlp()
    with pytest.raises(SettingsError, match=r"curvlinops 3\.x"):
        compute_with_curvlinops(network, examples)


def test_the_installed_curvlinops_is_named() -> None:
    assert curvlinops_adapter.version().startswith("3.")
