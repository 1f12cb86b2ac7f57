"""Tables of vectors: rows are heard where they are looked up, whatever is done then."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import embedding

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.linearize import linearize
from kfac_artifacts.network import Network, OutputMap
from tests import models
from tests.brute_force import (
    EXACT,
    artifact_of,
    assert_exact,
    check_against_brute_force,
    jacobians,
    network_of,
    randomised,
)
from tests.capture.test_text_models import mean_pool, texts
from tests.computed import compute

IDS = torch.tensor([[1, 2, 2, 5, 0], [4, 4, 1, 0, 0], [3, 0, 5, 5, 5]])


class Scaled(nn.Embedding):
    """As in Gemma and Bart: rows behind an offset, times a scale."""

    def forward(self, ids: Any) -> Any:
        return super().forward(ids + 2) * math.sqrt(8)


class ByFunction(nn.Embedding):
    def forward(self, ids: Any) -> Any:
        return 3 * embedding(ids, self.weight, padding_idx=-8) - 1


class ByIndex(nn.Embedding):
    def forward(self, ids: Any) -> Any:
        return self.weight[-1 - ids].tanh()


class BySelection(nn.Embedding):
    def forward(self, ids: Any) -> Any:
        rows = torch.index_select(self.weight, 0, ids.flatten())
        return rows.view(*ids.shape, -1) / 2


class Normed(nn.Embedding):
    """As in models that normalise what they look up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.LayerNorm(4)

    def forward(self, ids: Any) -> Any:
        return self.norm(super().forward(ids))


class FromMask(nn.Embedding):
    """As in OPT: its input is no number of a row."""

    def forward(self, mask: Any) -> Any:
        return super().forward(mask.cumsum(1) * mask + 1)


class Slice(nn.Embedding):
    """As in Whisper: the first rows, for all examples the same."""

    def forward(self, ids: Any) -> Any:
        return self.weight[1 : 1 + ids.shape[1]]


class Positions(nn.Embedding):
    """As in Pegasus: one row of numbers without an axis for examples."""

    def forward(self, ids: Any) -> Any:
        return super().forward(torch.arange(ids.shape[1]) + 1)


class Twice(nn.Embedding):
    def forward(self, ids: Any) -> Any:
        return super().forward(ids) * super().forward(ids + 1)


def toy(table: Any) -> Any:
    """A table, then something that is not linear, so that each position counts."""
    module = nn.Module()
    module.table, module.head = table, nn.Linear(4, 3)
    return randomised(module)


def f(module: nn.Module, batch: Any) -> Any:
    z = module.table(batch["ids"]) + torch.sin(batch["ids"])[..., None]
    return module.head(z.pow(2).tanh()).sum(1)


TABLES = [
    *(Scaled, ByFunction, ByIndex, BySelection, Normed, Slice, Positions, Twice),
    FromMask,
]


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_with_a_forward_of_its_own_is_exact(kind: Any) -> None:
    batch = {"ids": (IDS > 0).long() if kind is FromMask else IDS}
    assert not assert_exact(toy(kind(8, 4)), f, batch)


def test_the_row_of_padding_has_no_gradient() -> None:
    module = toy(nn.Embedding(8, 4, padding_idx=5))
    assert not assert_exact(module, f, {"ids": IDS})
    artifact = artifact_of(module, f, {"ids": IDS})
    assert artifact.factors["table.A"].to_dense()[5, 5] == 0


def test_a_table_with_sparse_gradients_is_a_table() -> None:
    found = [
        artifact_of(toy(nn.Embedding(8, 4, sparse=sparse)), f, {"ids": IDS})
        for sparse in (True, False)
    ]
    assert not found[0].provenance.uncovered
    for name, factor in found[0].factors.items():
        expected = found[1].factors[name].to_dense()
        torch.testing.assert_close(factor.to_dense(), expected)


@pytest.mark.parametrize("kind", TABLES)
def test_with_one_position_the_pair_is_the_gramian_itself(kind: Any) -> None:
    module = toy(kind(8, 4))
    if kind is Twice:  # two positions
        return
    batch = {"ids": torch.tensor([[1]])}
    artifact = artifact_of(module, f, batch)
    (J,) = jacobians(network_of(module, f), batch)["table.weight"]
    A, B = (artifact.factors[f"table.{k}"].to_dense() for k in "AB")
    rows = J.view(3, 8, 4).mT.flatten(1)  # W is the transposed table
    torch.testing.assert_close(torch.kron(B, A), rows.mT @ rows)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (nn.Embedding(8, 4, max_norm=100.0), "max_norm"),
        (nn.Embedding(8, 4, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (nn.EmbeddingBag(8, 4, mode="sum"), "EmbeddingBag"),
    ],
)
def test_what_is_no_look_up_is_refused_by_name(table: Any, reason: str) -> None:
    def pooled(module: nn.Module, batch: Any) -> Any:
        z = module.table(batch["ids"])
        return module.head(z if z.dim() == 2 else z.sum(1)).tanh()

    artifact = artifact_of(toy(table), pooled, {"ids": IDS})
    assert reason in artifact.provenance.uncovered["table.weight"]
    assert set(artifact.parameters) == {"head.weight", "head.bias"}


def test_a_table_that_is_changed_before_it_is_read_is_reported() -> None:
    class Changed(nn.Embedding):
        def forward(self, ids: Any) -> Any:
            return embedding(ids, self.weight / self.weight.norm())

    artifact = artifact_of(toy(Changed(8, 4)), f, {"ids": IDS})
    reason = "f does not look up its rows as they are"
    assert artifact.provenance.uncovered == {"table.weight": reason}


def test_a_sparse_table_is_trained_with_dense_gradients() -> None:
    module = toy(nn.Embedding(8, 4, sparse=True))
    model = linearize(network_of(module, f), ["table.weight"])
    model({"ids": IDS}).sum().backward()
    assert not model.tau()["table.weight"].grad.is_sparse


def _gemma3() -> Any:
    from transformers import Gemma3TextConfig, Gemma3TextModel

    widths = models._WIDTHS | {"num_key_value_heads": 1, "head_dim": 4}
    tokens = models._TOKENS | models._POSITIONS
    return Gemma3TextModel(Gemma3TextConfig(**widths, **tokens))


def _opt() -> Any:
    from transformers import OPTConfig, OPTModel

    widths = {"hidden_size": 8, "ffn_dim": 12, "num_hidden_layers": 1}
    config = {"num_attention_heads": 2, "word_embed_proj_dim": 8}
    return OPTModel(
        OPTConfig(**widths, **config, **models._TOKENS, **models._POSITIONS)
    )


def _bart() -> Any:
    from transformers import BartConfig
    from transformers.models.bart.modeling_bart import BartEncoder

    sizes = {"d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 2}
    config = {"encoder_ffn_dim": 12, "scale_embedding": True}
    return BartEncoder(
        BartConfig(**sizes, **config, **models._TOKENS, **models._POSITIONS)
    )


@pytest.mark.parametrize("build", [_gemma3, _opt, _bart])
def test_scaled_and_offset_tables_of_models_are_exact(build: Any) -> None:
    module = models._randomised(build(), 0, torch.float64)
    network = Network(module, OutputMap(NamedConfig("f"), mean_pool), "tables")
    artifact = compute(network, texts(), cotangents=EXACT)
    assert not artifact.provenance.uncovered
    assert check_against_brute_force(network, texts(), artifact)["kronecker"] > 0
