"""``nn.MultiheadAttention`` in steps computes what it computes whole, and is exact."""

from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.capture.layers.attention import explicit_attention
from tests.brute_force import artifact_of, assert_exact, randomised

N, T, S, E, H = 3, 4, 5, 8, 2


def numbers(*shape: Any) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


PADDING = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
MASKS = {
    "none": {},
    "boolean": {"attn_mask": torch.ones(T, S).triu(2).bool()},
    "float": {"attn_mask": numbers(T, S)},
    "one for each head": {"attn_mask": numbers(N * H, T, S)},
    "padding": {"key_padding_mask": PADDING},
    "float padding": {"key_padding_mask": PADDING.double() * -3},
    "both": {
        "attn_mask": torch.ones(T, S).triu(2).bool(),
        "key_padding_mask": PADDING,
    },
}


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "wanted",
    [
        {"need_weights": False},
        {"need_weights": True},
        {"need_weights": True, "average_attn_weights": False},
    ],
)
def test_attention_in_steps_is_attention(
    masks: Any, batch_first: Any, wanted: Any
) -> None:
    module = randomised(nn.MultiheadAttention(E, H, batch_first=batch_first))
    module.double().eval()
    shapes = [(N, T, E), (N, S, E), (N, S, E)]
    q, k, v = (
        (numbers(*shape) + i).transpose(0, 0 if batch_first else 1)
        for i, shape in enumerate(shapes)
    )
    options = wanted | MASKS[masks]
    expected, weights = module(q, k, v, **options)
    with explicit_attention(module) as found:
        assert list(found) == [module]
        z, ours = module(q, k, v, **options)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(ours, weights)


def test_attention_without_a_batch_is_attention() -> None:
    module = randomised(nn.MultiheadAttention(E, H)).double().eval()
    x, mask = numbers(T, E), numbers(H, T, T)
    expected = module(x, x, x, attn_mask=mask)
    with explicit_attention(module):
        found = module(x, x, x, attn_mask=mask)
    torch.testing.assert_close(found, expected)


def test_the_module_and_the_fast_path_are_left_as_they_were() -> None:
    module = nn.MultiheadAttention(E, H)
    before = dict(vars(module))
    fast = torch.backends.mha.get_fastpath_enabled()
    with explicit_attention(module):
        assert module.forward != before.get("forward")
        assert list(module.children()) == [module.out_proj]
    assert vars(module) == before
    assert torch.backends.mha.get_fastpath_enabled() == fast


class _Attention(nn.Module):
    """Self-attention, or the attention of a query of its own to the positions."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, H, **options)
        self.probe = nn.Parameter(torch.zeros(1, 1, E))
        self.head = nn.Linear(E, 3)
        self.kind = kind

    def forward(self, x: Any) -> Any:
        x = torch.tanh(x)
        query = self.probe.repeat(len(x), 1, 1) if self.kind == "probe" else x
        value = x * 2 if self.kind == "three inputs" else x
        qkv = (query, x, value)
        if not self.attention.batch_first:
            same = query is x is value
            swapped = x.transpose(0, 1)
            qkv = [swapped] * 3 if same else [part.transpose(0, 1) for part in qkv]  # type: ignore[assignment]
        z = self.attention(*qkv, need_weights=False)[0]
        return self.head(z.mean(1 if self.attention.batch_first else 0))


def call(module: nn.Module, batch: Any) -> Any:
    return module(batch["x"])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["self", "probe", "three inputs"])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_exact(kind: str, batch_first: Any, bias: Any) -> None:
    module = randomised(_Attention(kind, batch_first=batch_first, bias=bias))
    uncovered = assert_exact(module, call, {"x": numbers(N, N, E)})
    unused = {} if kind == "probe" else {"probe": "f does not depend on it"}
    assert uncovered == unused


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kdim": E, "vdim": E + 1}, "separate maps"),
        ({"add_bias_kv": True}, "a key and value of its own"),
        ({"add_zero_attn": True}, "an added zero key"),
    ],
)
def test_attention_that_has_no_explicit_form_is_reported(
    options: Any, reason: str
) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(E, H, **options)
            self.head = nn.Linear(E, 3)

        def forward(self, x: Any) -> Any:
            value = torch.nn.functional.pad(x, (0, options.get("vdim", E) - E))
            return self.head(self.attention(x, x, value)[0].mean(0))

    artifact = artifact_of(Odd(), lambda m, b: m(b["x"].transpose(0, 1)), {
        "x": numbers(N, T, E)
    })  # fmt: skip
    assert set(artifact.parameters) == {"head.weight", "head.bias"}
    reasons = artifact.provenance.uncovered
    assert all(reason in reasons[name] for name in reasons if "out_proj" not in name)
    assert "without calling its module" in reasons["attention.out_proj.weight"]


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_of_torch_is_exact_without_its_fast_path(norm_first: Any) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(
                E, H, 12, batch_first=True, norm_first=norm_first
            )
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(E, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.encoder(x).mean(1))

    module = randomised(Encoder())
    assert assert_exact(module, call, {"x": numbers(N, T, E)}) == {}
