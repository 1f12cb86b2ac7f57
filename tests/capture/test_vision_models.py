"""Vision architectures, tiny and random: what is covered is exact, the rest known."""

from typing import Any

import pytest
import torch
from torch import nn

from tests import models
from tests.brute_force import assert_exact, randomised

UNREACHED = "f does not depend on it"
WIDTHS = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def images(size: int = 8, count: int = 3) -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, size, size, generator=generator)
    return {"pixel_values": x.double()}


def pooler(module: nn.Module, batch: Any) -> Any:
    return module(**batch).pooler_output


def class_token(module: nn.Module, batch: Any) -> Any:
    return module(**batch).last_hidden_state[:, 0]


def test_clip_vision_and_text() -> None:
    clip = models.tiny_clip()

    def image(module: nn.Module, batch: Any) -> Any:
        pooled = module.vision_model(**batch).pooler_output
        return module.visual_projection(pooled)

    def text(module: nn.Module, batch: Any) -> Any:
        return module.text_projection(module.text_model(**batch).pooler_output)

    for f, batch, tower in (
        (image, images(), "vi"),
        (text, models.text_batch(), "text"),
    ):
        uncovered = assert_exact(clip, f, batch)
        assert set(uncovered.values()) == {UNREACHED}
        assert not any(name.startswith(tower) for name in uncovered)


def test_vit() -> None:
    assert assert_exact(models.tiny_vit(), class_token, images()) == {}


def test_dinov2_with_its_layer_scales() -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        **{k: v for k, v in WIDTHS.items() if k != "intermediate_size"},
        mlp_ratio=2,
        image_size=8,
        patch_size=4,
    )
    uncovered = assert_exact(randomised(Dinov2Model(config)), pooler, images())
    assert uncovered == {"embeddings.mask_token": UNREACHED}


def test_interpolated_position_tables_of_dinov2_are_covered() -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=8,
        patch_size=4,
    )
    module = randomised(Dinov2Model(config))
    uncovered = assert_exact(module, pooler, images(size=12))
    assert uncovered == {"embeddings.mask_token": UNREACHED}


def test_siglip_vision_with_its_pooling_by_attention() -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(**WIDTHS, image_size=8, patch_size=4)
    assert assert_exact(randomised(SiglipVisionModel(config)), pooler, images()) == {}


def test_the_scales_of_siglip_are_covered() -> None:
    from transformers import SiglipConfig, SiglipModel

    text = WIDTHS | {"vocab_size": 20, "max_position_embeddings": 5}
    vision = WIDTHS | {"image_size": 8, "patch_size": 4}
    config = SiglipConfig(text_config=text, vision_config=vision)
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [5, 4, 3, 2, 1]])

    def scores(module: nn.Module, batch: Any) -> Any:
        image = module.vision_model(pixel_values=batch["pixel_values"]).pooler_output
        text = module.text_model(input_ids=batch["input_ids"]).pooler_output
        same = (image * text).sum(-1, keepdim=True)
        return same * module.logit_scale + module.logit_bias

    batch = images() | {"input_ids": ids}
    assert assert_exact(randomised(SiglipModel(config)), scores, batch) == {}


@pytest.mark.parametrize("depths", [(2, 1), (1, 1)])
def test_swin_with_shifted_windows_and_relative_positions(depths: Any) -> None:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=16,
        patch_size=2,
        embed_dim=4,
        depths=list(depths),
        num_heads=[1, 2],
        window_size=2,
        mlp_ratio=2.0,
    )
    module = randomised(SwinModel(config))
    assert assert_exact(module, pooler, images(size=16)) == {}


def test_convnext_with_depthwise_convolutions_and_layer_scales() -> None:
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(
        patch_size=2, num_stages=2, hidden_sizes=[4, 6], depths=[2, 1], image_size=8
    )
    assert assert_exact(randomised(ConvNextModel(config)), pooler, images()) == {}


def test_convnext_v2() -> None:
    from transformers import ConvNextV2Config, ConvNextV2Model

    config = ConvNextV2Config(
        patch_size=2, num_stages=2, hidden_sizes=[4, 6], depths=[1, 1], image_size=8
    )
    assert assert_exact(randomised(ConvNextV2Model(config)), pooler, images()) == {}


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_resnet_with_batch_norms(layer_type: Any) -> None:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type=layer_type
    )

    def pooled(module: nn.Module, batch: Any) -> Any:
        return module(**batch).pooler_output.flatten(1)

    assert assert_exact(randomised(ResNetModel(config)), pooled, images()) == {}


def test_beit_with_relative_positions() -> None:
    from transformers import BeitConfig, BeitModel

    config = BeitConfig(
        **WIDTHS, image_size=8, patch_size=4, use_relative_position_bias=True
    )
    assert assert_exact(randomised(BeitModel(config)), pooler, images()) == {}


class _TimmBlock(nn.Module):
    """A block as timm writes it: one map to queries, keys and values, layer scales."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2 = nn.Linear(8, 12), nn.Linear(12, 8)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(8)) for _ in range(2))

    def forward(self, x: Any) -> Any:
        n, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        z = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.gamma_1 * self.proj(z.transpose(1, 2).reshape(n, t, d))
        h = nn.functional.gelu(self.fc1(self.norm2(x)))
        return x + self.gamma_2 * self.fc2(h)


class _TimmVit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.blocks = nn.Sequential(_TimmBlock(), _TimmBlock())
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, pixel_values: Any) -> Any:
        x = self.proj(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.norm(self.blocks(x + self.pos_embed)[:, 0]))


def test_a_vit_as_timm_writes_it() -> None:
    module = randomised(_TimmVit())
    assert assert_exact(module, lambda m, b: m(**b), images()) == {}


class _OpenClipBlock(nn.Module):
    """A residual attention block as OpenCLIP writes it: sequence first."""

    def __init__(self, *, batch_first: Any) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, x: Any) -> Any:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class _OpenClip(nn.Module):
    def __init__(self, size: Any, *, batch_first: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 4, stride=4, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(8))
        positions = 1 + (size // 4) ** 2
        self.positional_embedding = nn.Parameter(torch.zeros(positions, 8))
        self.ln_pre, self.ln_post = nn.LayerNorm(8), nn.LayerNorm(8)
        self.resblocks = nn.Sequential(
            _OpenClipBlock(batch_first=batch_first),
            _OpenClipBlock(batch_first=batch_first),
        )
        self.batch_first = batch_first
        self.head = nn.Linear(8, 3)

    def forward(self, pixel_values: Any) -> Any:
        x = self.conv1(pixel_values).flatten(2).permute(0, 2, 1)
        token = self.class_embedding.view(1, 1, -1).expand(len(x), -1, -1)
        x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding)
        x = x if self.batch_first else x.permute(1, 0, 2)
        x = self.resblocks(x)
        x = x if self.batch_first else x.permute(1, 0, 2)
        return self.head(self.ln_post(x[:, 0]))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("size", "count"), [(4, 2), (8, 3), (8, 5)])
def test_a_clip_as_openclip_writes_it(batch_first: Any, size: Any, count: int) -> None:
    """Two positions and two examples, five and three, five and five."""
    module = randomised(_OpenClip(size, batch_first=batch_first))
    batch = images(size=size, count=count)
    assert assert_exact(module, lambda m, b: m(**b), batch) == {}
