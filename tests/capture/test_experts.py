"""Experts in stacked parameters: every one is a block in which routed tokens count."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.artifact import KroneckerBlock, NamedConfig
from kfac_artifacts.capture.layers.routing import Places, Tokens
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.estimate import ComputeOptions, Nearest, checkpointing
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests import models
from tests.brute_force import EXACT, jacobians
from tests.capture.test_text_models import mean_pool, network_of, texts
from tests.computed import compute

FIRST = "layers.0.mlp"


def chosen_by(router: Any, network: Network, batch: Any) -> Any:
    """Which experts a router sends tokens to."""
    seen = []
    hook = router.register_forward_hook(lambda _m, _args, z: seen.append(z[2]))
    network.module.config._experts_implementation = "eager"  # for float64
    network(batch)
    hook.remove()
    return set(seen[0].flatten().tolist())


class _Dense:
    """A mixture in which every expert sees every token; what it puts out is shifted."""

    def __init__(self, experts: Any) -> None:
        self.experts = experts
        self.tokens, self.hidden, self.chosen = None, None, None
        self.shifts = None

    def __call__(self, tokens: Any, chosen: Any, weights: Any) -> Any:
        up, down = self.experts.gate_up_proj, self.experts.down_proj
        d_up, d_down = self.shifts  # type: ignore[misc]
        both = torch.einsum("td,eid->eti", tokens, up) + d_up  # type: ignore[has-type]
        gate, value = both.chunk(2, dim=-1)
        hidden = self.experts.act_fn(gate) * value
        out = torch.einsum("eti,edi->etd", hidden, down) + d_down  # type: ignore[has-type]
        share = nn.functional.one_hot(chosen, len(up)) * weights[..., None].to(out)
        self.tokens, self.hidden, self.chosen = tokens, hidden, chosen
        return torch.einsum("tke,etd->td", share, out)


def test_the_factors_of_an_expert_are_those_of_the_tokens_routed_to_it() -> None:
    network = network_of("mixtral")
    artifact = compute(network, texts(), cotangents=EXACT)
    batch = texts().batch(range(3))
    real = batch["attention_mask"].bool().flatten()
    network.module.config._experts_implementation = "eager"  # for float64
    expected = network(batch)
    experts = network.module.get_submodule(f"{FIRST}.experts")
    dense = _Dense(experts)
    shapes = (4, len(real), 2 * 12), (4, len(real), 8)
    dense.shifts = [torch.zeros(s, dtype=torch.float64) for s in shapes]  # type: ignore[assignment]
    for shift in dense.shifts:  # type: ignore[attr-defined]
        shift.requires_grad_()
    experts.forward = dense
    f = network(batch)
    torch.testing.assert_close(f, expected)
    rows = [
        torch.autograd.grad(f[n, c], dense.shifts, retain_graph=True)  # type: ignore[call-overload]
        for n in range(3)
        for c in range(8)
    ]
    reached = 0
    for k, stack in enumerate(("gate_up_proj", "down_proj")):
        J = torch.stack([row[k] for row in rows])  # [n c, expert, token, d_out]
        for e in range(4):
            block = artifact.blocks[f"{FIRST}.experts.{stack}.{e}"]
            assert block.part == e
            A, B = (artifact.factors[name].to_dense() for name in block.factors)
            mine = real & (dense.chosen == e).any(1)  # type: ignore[attr-defined]
            a = (dense.tokens if k == 0 else dense.hidden[e])[mine].detach()
            torch.testing.assert_close(A, a.mT @ a / max(len(a), 1))
            torch.testing.assert_close(
                B, torch.einsum("nti,ntj->ij", J[:, e], J[:, e]) / 3
            )
            reached += len(a)
    assert reached == 2 * 2 * int(real.sum())  # two experts for each token


@pytest.mark.parametrize("kind", models.EXPERTS)
def test_one_token_gives_every_expert_the_gramian_itself(kind: str) -> None:
    """With one example of one token, experts have one position or none."""
    network = network_of(kind)
    batch = {
        "input_ids": torch.tensor([[5]]),
        "attention_mask": torch.tensor([[1]]),
    }
    artifact = compute(network, TensorExamples(batch, "one"), cotangents=EXACT)
    J = jacobians(network, batch)
    reached = 0
    for name, block in artifact.blocks.items():
        if not isinstance(block, KroneckerBlock) or block.part is None:
            continue
        rows = [
            block.gather({p: J[p][0, c] for p in block.parameters}).flatten()
            for c in range(8)
        ]
        G = torch.stack(rows).mT @ torch.stack(rows)
        A, B = (artifact.factors[f].to_dense() for f in block.factors)
        torch.testing.assert_close(torch.kron(B, A), G, rtol=1e-5, atol=1e-9)
        reached += int(bool(B.norm() > 0))
        assert (A.norm() > 0) == (B.norm() > 0), name
    per_layer = network.module.config.num_experts_per_tok * 2
    assert reached == per_layer * network.module.config.num_hidden_layers


def test_an_expert_that_no_token_has_reached_has_a_block_of_zeros() -> None:
    network = network_of("gpt-oss")
    router = network.module.get_submodule(f"{FIRST}.router")
    with torch.no_grad():
        router.bias[3] = -1000
    artifact = compute(network, texts(), cotangents=EXACT)
    unreached = set(range(6)) - chosen_by(router, network, texts().batch(range(3)))
    assert 3 in unreached
    for e in range(6):
        for stack in ("gate_up_proj", "down_proj"):
            block = artifact.blocks[f"{FIRST}.experts.{stack}.{e}"]
            norms = [artifact.factors[f].to_dense().norm() for f in block.factors]
            assert all(n == 0 for n in norms) == (e in unreached)


@pytest.mark.parametrize("terms", [1, 2])
def test_the_nearest_products_of_an_unreached_expert_are_saved_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: Any
) -> None:
    monkeypatch.setattr(checkpointing, "SHARE", float("inf"))  # save at every chance
    network = network_of("gpt-oss")
    with torch.no_grad():
        network.module.get_submodule(f"{FIRST}.router").bias[3] = -1000
    options = ComputeOptions(tmp_path / "checkpoint", every=1)
    estimator = Nearest(terms=terms, shrinkage=False)
    artifact = compute(
        network, texts(), cotangents=EXACT, estimator=estimator, options=options
    )
    block = artifact.blocks[f"{FIRST}.experts.down_proj.3"]
    assert len(set(block.factors)) == 2 * terms
    assert all(artifact.factors[f].to_dense().norm() == 0 for f in block.factors)
    save_artifact(artifact, tmp_path / "saved")
    assert load_artifact(tmp_path / "saved").blocks == artifact.blocks


def test_a_batch_may_leave_an_expert_out_that_another_batch_reaches() -> None:
    network = network_of("qwen3-moe")
    whole = compute(network, texts(), cotangents=EXACT)
    parts = compute(network, texts(), cotangents=EXACT, batch_size=1)
    for name, factor in whole.factors.items():
        torch.testing.assert_close(parts.factors[name].to_dense(), factor.to_dense())


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_the_implementation_of_experts_changes_nothing_and_is_left_alone(
    implementation: Any,
) -> None:
    module = models.tiny("mixtral", dtype=torch.float32)
    module.config._experts_implementation = implementation
    network = Network(module, OutputMap(NamedConfig("f"), mean_pool), "mixtral")
    artifact = compute(network, texts(), cotangents=EXACT)
    assert artifact.provenance.uncovered == {}
    assert module.config._experts_implementation == implementation
    assert not any("forward" in vars(part) for part in module.modules())
    exact = compute(network_of("mixtral"), texts(), cotangents=EXACT)
    for name, factor in exact.factors.items():
        found = artifact.factors[name].to_dense().double()
        assert (found - factor.to_dense()).norm() <= 1e-3 * factor.to_dense().norm()


def test_a_stack_that_is_used_beside_its_experts_is_reported_whole() -> None:
    network = network_of("mixtral")
    stack = network.module.get_submodule(f"{FIRST}.experts").gate_up_proj

    def beside(module: nn.Module, batch: Any) -> Any:
        return mean_pool(module, batch) + stack[1].sum()

    network = Network(network.module, OutputMap(NamedConfig("f"), beside), "mixtral")
    artifact = compute(network, texts(), cotangents=EXACT)
    assert set(artifact.provenance.uncovered) == {f"{FIRST}.experts.gate_up_proj"}
    assert f"{FIRST}.experts.down_proj.0" in artifact.blocks
    assert not any(".0.mlp.experts.gate_up_proj" in name for name in artifact.blocks)


class _Scaled(nn.Linear):
    """A linear map with a forward of its own."""

    def forward(self, x: Any) -> Any:
        return 2 * nn.functional.linear(x, self.weight, self.bias)


class _Normed(nn.Linear):
    def forward(self, x: Any) -> Any:
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


@pytest.mark.parametrize("folded", [True, False])
def test_a_linear_map_applied_by_function_is_covered(folded: Any) -> None:
    module = _Scaled(4, 3).double()

    def f(m: Any, batch: Any) -> Any:
        x = batch["x"]
        return m(x.flatten(0, 1)).view(-1, 2, 3).sum(1) if folded else m(x).sum(1)

    network = Network(module, OutputMap(NamedConfig("f"), f), "toy")
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    artifact = compute(network, TensorExamples({"x": x}, "x"), cotangents=EXACT)
    a = torch.cat([x.flatten(0, 1), torch.ones(6, 1, dtype=x.dtype)], dim=1)
    A, B = (artifact.factors[f"weight.{k}"].to_dense() for k in "AB")
    torch.testing.assert_close(A, a.mT @ a / 6)
    torch.testing.assert_close(B, 2 * 4 * torch.eye(3, dtype=x.dtype))


class _Transposed(nn.Linear):
    """As those of Falcon are: by a product, of which the output is changed in place."""

    def forward(self, x: Any) -> Any:
        z = x @ self.weight.T
        z += self.bias
        return z


def test_a_product_with_a_transposed_weight_is_covered() -> None:
    module = nn.Sequential(_Transposed(4, 5), nn.Tanh(), _Transposed(5, 3)).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    f = OutputMap(NamedConfig("f"), lambda m, batch: m(batch["x"]).flatten(1))
    network, examples = Network(module, f, "toy"), TensorExamples({"x": x}, "x")
    found = compute(network, examples, cotangents=EXACT)
    assert found.provenance.uncovered == {}
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    plain.load_state_dict(module.state_dict())
    expected = compute(Network(plain, f, "toy"), examples, cotangents=EXACT)
    assert found.factors.keys() == expected.factors.keys()
    for name, factor in expected.factors.items():
        torch.testing.assert_close(found.factors[name].to_dense(), factor.to_dense())


class _Named(nn.Linear):
    """Transposed by a call that names its argument, which nobody listens to."""

    def forward(self, x: Any) -> Any:
        return x @ torch.t(input=self.weight) + self.bias


@pytest.mark.parametrize("kind", [_Normed, _Named])
def test_a_weight_that_is_not_seen_to_be_applied_is_reported(kind: Any) -> None:
    module = nn.Sequential(kind(4, 3), nn.Linear(3, 2)).double()
    network = Network(
        module, OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "toy"
    )
    examples = TensorExamples({"x": torch.randn(3, 4, dtype=torch.float64)}, "x")
    artifact = compute(network, examples, cotangents=EXACT)
    assert set(artifact.provenance.uncovered) == {"0.weight", "0.bias"}


def test_stacks_are_saved_merged_and_penalised(tmp_path: Path) -> None:
    network = network_of("gpt-oss")
    one = compute(network, texts(), cotangents=EXACT)
    save_artifact(one, tmp_path / "one")
    other = TensorExamples(models.text_batch(), "other")
    save_artifact(compute(network, other, cotangents=EXACT), tmp_path / "other")
    assert all(finding.good for finding in verify(tmp_path / "one"))
    merged = merge([load_artifact(tmp_path / "one"), load_artifact(tmp_path / "other")])
    save_artifact(merged, tmp_path / "merged")
    merged_blocks = load_artifact(tmp_path / "merged").blocks
    assert {n: b.with_positions(None) for n, b in merged_blocks.items()} == {
        n: b.with_positions(None) for n, b in one.blocks.items()
    }
    tau = {
        name: torch.randn(shape, dtype=torch.float64).requires_grad_()
        for name, shape in one.parameters.items()
    }
    penalty = KfacPenalty(load_artifact(tmp_path / "merged"))
    value = penalty(tau)
    drift = one.drift(tau).float()
    torch.testing.assert_close(value, drift, rtol=1e-5, atol=0)
    value.backward()
    for (
        name,
        value_of,
    ) in tau.items():  # d⟨τ, Gτ⟩ = 2 Gτ, so ⟨τ, gradient⟩ over all is twice the value
        assert value_of.grad is not None, name
    twice = sum((t * t.grad).sum() for t in tau.values())  # type: ignore[misc]
    torch.testing.assert_close(twice.float(), 2 * value, rtol=1e-5, atol=0)  # type: ignore[attr-defined]


def test_rows_find_their_places_and_come_back() -> None:
    rows = torch.tensor([7, 0, 5, 1, 4])  # of 3 examples with 3 positions each
    places = Places.of(rows, 3, 3)
    values = torch.arange(5.0)[:, None] + 1
    put = places.put(values)
    assert put.shape == (3, 2, 1)
    assert put.flatten(1).sort().values.tolist() == [[2, 4], [3, 5], [0, 1]]
    assert torch.equal(places.take(put), values)
    empty = Places.of(torch.tensor([], dtype=torch.long), 3, 3)
    assert empty.put(values[:0]).shape == (3, 1, 1)


def test_rows_that_are_not_those_of_the_examples_are_told() -> None:
    tokens = Tokens(2, torch.ones(2, 3, dtype=torch.bool))
    assert tokens.fault(torch.zeros(6, 4)) is None
    assert tokens.fault(torch.zeros(2, 4)) is None
    assert "not that of 2 examples" in str(tokens.fault(torch.zeros(5, 4)))
    assert "not that of 2 examples" in str(tokens.fault(torch.zeros(3, 2, 4)))
    assert "attention mask" in str(tokens.fault(torch.zeros(4, 4)))
