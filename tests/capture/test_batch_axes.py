"""Where the examples are in a tensor is proved, and never guessed from its shape."""

from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.capture import Pass, prove, take_inventory
from kfac_artifacts.capture.layers.batch_layout import BatchLayout
from kfac_artifacts.errors import CoverageError, KfacError
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests.brute_force import EXACT, Recorder, assert_exact, randomised
from tests.computed import compute


def numbers(*shape: Any) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


def positions_first(x: Any) -> Any:
    return x.transpose(0, 1)


def folded(x: Any) -> Any:
    return x.flatten(0, 1)


def windows(x: Any) -> Any:
    return x.unflatten(1, (-1, 2)).flatten(0, 1)


def strided(x: Any) -> Any:
    return x.transpose(0, 1).flatten(0, 1)


class _Mixed(nn.Module):
    """Linear maps and a norm on tensors whose examples are where ``move`` puts them."""

    def __init__(self, move: Any, back: Any, pool: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        self.move, self.back = move, back
        self.pool = pool or (lambda z: z.sum(1))

    def forward(self, x: Any) -> Any:
        z = self.head(torch.tanh(self.norm(self.layer(self.move(x)))))
        return self.pool(self.back(z, x))


MOVES = {
    "sequence first": (
        positions_first,
        lambda z, _: z.transpose(0, 1),
        BatchLayout.SECOND,
    ),
    "flattened": (folded, lambda z, x: z.view(*x.shape[:2], -1), BatchLayout.FOLDED),
    "windows": (windows, lambda z, x: z.reshape(*x.shape[:2], -1), BatchLayout.FOLDED),
    "flattened, sequence first": (
        strided,
        lambda z, x: z.view(x.shape[1], len(x), -1).transpose(0, 1),
        BatchLayout.STRIDED,
    ),
}


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize(("count", "positions"), [(2, 2), (3, 4), (5, 6), (4, 4)])
def test_every_order_is_exact_even_where_shapes_agree(
    kind: str, count: int, positions: Any
) -> None:
    move, back, _ = MOVES[kind]
    module = randomised(_Mixed(move, back))
    batch = {"x": numbers(count, positions, 4)}
    assert assert_exact(module, lambda m, b: m(b["x"]), batch) == {}


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("pool", ["sum", "first"])
def test_the_order_that_is_proved_is_the_true_one(kind: str, pool: Any) -> None:
    """Two examples, two windows of two: only the cotangents tell, or one position."""
    move, back, order = MOVES[kind]
    first = (lambda z: z[:, 0]) if pool == "first" else None
    module = randomised(_Mixed(move, back, first)).double()
    network = Network(
        module, OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "toy"
    )
    coverage = prove(network, take_inventory(module), {"x": numbers(2, 4, 4)})
    assert {tuple(layer.batch_layouts.values()) for layer in coverage.layers} == {
        (order,)
    }


def run(module: nn.Module, x: Any, **options: Any) -> Any:
    network = Network(
        module.double(), OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "toy"
    )
    return compute(network, TensorExamples({"x": x}, "x"), cotangents=EXACT, **options)


def proved(module: nn.Module, x: Any) -> Any:
    """What the proof finds covered, and why not the rest, whatever else is asked."""
    network = Network(
        module.double(), OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "toy"
    )
    inventory = take_inventory(network.module)
    coverage = prove(network, inventory, {"x": x})
    return {layer.name for layer in coverage.layers}, inventory.uncovered


@pytest.mark.parametrize("positions", [2, 5])
def test_examples_on_the_third_axis_are_found(positions: Any) -> None:
    module = _Third()
    with pytest.raises(CoverageError, match=r"cannot be told apart|is nowhere"):
        run(module, numbers(3, positions, 4))


class _Third(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        moved = x.transpose(0, 1)[None].expand(3, -1, -1, -1)  # [3, T, N, d]
        return self.layer(torch.tanh(moved)).sum((0, 1))


class _OfOneLength(nn.Module):
    """Takes texts of four tokens only, and applies a layer where no batch is found."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.odd = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Any, attention_mask: Any) -> Any:
        if ids.shape[1] != 4:
            raise ValueError("texts of four tokens")
        z = self.table(ids) * attention_mask[..., None]
        moved = z.transpose(0, 1)[None].expand(3, -1, -1, -1)  # [3, T, N, d]
        return self.head(torch.tanh(self.odd(moved)).sum((0, 1)))


def test_a_model_for_texts_of_one_length_loses_no_other_layer() -> None:
    module = randomised(_OfOneLength()).double()
    network = Network(module, OutputMap(NamedConfig("f"), lambda m, b: m(**b)), "toy")
    inventory = take_inventory(module)
    coverage = prove(network, inventory, {k: v[:2] for k, v in TEXTS.items()})
    assert {layer.name for layer in coverage.layers} == {"table", "head"}
    assert "is nowhere" in inventory.uncovered["odd.weight"]


class _Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        z = self.layer(x)
        return self.head(torch.tanh(z - z.mean(0)))


def test_examples_that_depend_on_one_another_are_found() -> None:
    coverage, reasons = proved(_Mixing(), numbers(3, 4))
    assert coverage == {"head"}
    assert "cannot be told apart" in reasons["layer.weight"]
    with pytest.raises(CoverageError, match="depends on the batch"):
        run(_Mixing(), numbers(3, 4))


def test_an_order_that_could_be_either_is_refused() -> None:
    """Example 0 is read at position 0 and example 1 at 1: rows and columns agree."""

    class Diagonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.head = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            numbers = torch.arange(len(x))
            return self.head(torch.tanh(self.layer(x))[numbers, numbers])

    coverage, reasons = proved(Diagonal(), numbers(2, 2, 4))
    assert coverage == {"head"}
    assert "two axes" in reasons["layer.weight"]


def test_a_batch_that_moves_after_the_proof_is_an_error() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            first = len(x) == 2
            z = self.layer(x if first else x.transpose(0, 1))
            return z.sum(1 if first else 0)

    with pytest.raises(KfacError, match="not where it was"):
        run(Moving(), numbers(3, 5, 4))


class _Tokens(nn.Module):
    def __init__(self, *, heeds_mask: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.heeds_mask = heeds_mask

    def forward(self, ids: Any, attention_mask: Any) -> Any:
        z = torch.tanh(self.layer(self.table(ids).flatten(0, 1))).view(*ids.shape, 4)
        z = z * attention_mask[..., None] if self.heeds_mask else z
        return self.head(z.sum(1))


TEXTS = {
    "ids": torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 1, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
}


def test_rows_are_the_real_tokens_and_found_once() -> None:
    module = randomised(_Tokens(heeds_mask=True)).double()
    assert assert_exact(module, lambda m, b: m(**b), TEXTS) == {}
    network = Network(module, OutputMap(NamedConfig("f"), lambda m, b: m(**b)), "toy")
    coverage = prove(network, take_inventory(module), TEXTS)

    class Rows(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[Any] = []

        def on_input(self, call: Any) -> None:
            self.rows.append(call.rows)

    listener = Rows()
    Pass(network, coverage.layers, TEXTS, listener).forward()
    table, layer, head = listener.rows
    assert table is layer
    assert table.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 10]
    assert head is None


def test_a_model_that_reads_what_the_mask_hides_is_found() -> None:
    module = randomised(_Tokens(heeds_mask=False)).double()
    network = Network(module, OutputMap(NamedConfig("f"), lambda m, b: m(**b)), "toy")
    artifact = compute(network, TensorExamples(TEXTS, "x"), cotangents=EXACT)
    assert set(artifact.parameters) == {"head.weight", "head.bias"}
    reasons = set(artifact.provenance.uncovered.values())
    assert reasons == {"f depends on positions that the attention mask hides"}


def test_the_proof_is_three_passes_and_differentiates_what_is_asked_for() -> None:
    module = randomised(_Tokens(heeds_mask=True)).double()
    module.scale = nn.Parameter(torch.ones(4).double())
    network = Network(
        module,
        OutputMap(NamedConfig("f"), lambda m, b: m(**b) * m.scale.sum()),
        "toy",
    )
    forwards, gradients = [], []
    module.register_forward_hook(lambda *_: forwards.append(1))
    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda _, name=name: gradients.append(name))
    inventory = take_inventory(module, exclude=("layer.*",))
    prove(network, inventory, TEXTS)
    assert len(forwards) == 3
    assert sorted(gradients) == ["head.bias", "head.weight", "scale", "table.weight"]
