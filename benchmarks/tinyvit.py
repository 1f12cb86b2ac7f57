"""TinyViT-5M in plain PyTorch: a pretrained vision transformer that is easy to fetch.

Convolutions with batch norms, then attention within windows, with one bias per head
and distance; between the stages the map is halved (Wu et al. 2022). The weights are
those of MobileSAM's image encoder, distilled from SAM (Zhang et al. 2023), whose last
stage keeps the resolution. f is the mean of the last map over places, L2-normalised.
"""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, normalize, pad

import assets
import kfac_artifacts as kfac
from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.network import Batch

PREFIX = "image_encoder."
UNUSED = ("neck.", "norm_head.", "head.")
"""Beginnings of the checkpoint's keys that f has no use for."""

SIDE, SUITE_SIDE, SHEET = 96, 64, 32
"""Side of images that the network sees, in a suite, and in CIFAR-10's files; pixels."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet, whose images the network was made for."""


class ConvNorm(nn.Sequential):
    """A convolution without a bias and a batch norm."""

    def __init__(
        self, d_in: int, d_out: int, size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(
            d_in, d_out, size, stride, size // 2, groups=groups, bias=False
        )
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(d_out))


class Bottleneck(nn.Module):
    """Wide, depthwise, narrow: PatchMerging, or with what came in added an MBConv."""

    def __init__(
        self, d_in: int, d_wide: int, d_out: int, stride: int, *, residual: bool
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(d_in, d_wide)
        self.conv2 = ConvNorm(d_wide, d_wide, 3, stride, groups=d_wide)
        self.conv3 = ConvNorm(d_wide, d_out)
        self._residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, d_in, H, W]`` to ``[N, d_out, H / stride, W / stride]``."""
        z = self.conv3(gelu(self.conv2(gelu(self.conv1(x)))))
        return gelu(x + z) if self._residual else z


class Attention(nn.Module):
    """Attention within a window, with a bias for every head and distance."""

    attention_bias_idxs: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self._heads = heads
        places = list(product(range(side), repeat=2))
        numbers: dict[tuple[int, int], int] = {}
        pairs = [
            numbers.setdefault((abs(a - c), abs(b - d)), len(numbers))
            for (a, b), (c, d) in product(places, repeat=2)
        ]
        self.attention_biases = nn.Parameter(torch.zeros(heads, len(numbers)))
        of_pairs = torch.tensor(pairs).view(side**2, side**2)
        self.register_buffer("attention_bias_idxs", of_pairs, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[windows, places, width]`` to the same."""
        qkv = self.qkv(self.norm(x)).unflatten(2, (self._heads, 3, -1))
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        scores = scores + self.attention_biases[:, self.attention_bias_idxs]
        mixed = scores.softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """A norm and two Linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[…, width]`` to the same."""
        return self.fc2(gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Attention within windows, a depthwise convolution and an MLP."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads, side)
        self.mlp = Mlp(width)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self._side = side

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, width, H, W]`` to the same."""
        x = x + self._attended(x.movedim(1, -1)).movedim(-1, 1)
        x = self.local_conv(x).movedim(1, -1)
        return (x + self.mlp(x)).movedim(-1, 1)

    def _attended(self, x: Tensor) -> Tensor:
        """Cut ``[N, H, W, width]`` into windows, padded with zeros; join them again."""
        height, width = x.shape[1:3]
        side = self._side
        x = pad(x, (0, 0, 0, -width % side, 0, -height % side))
        cut = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        done = self.attn(cut.flatten(3, 4).flatten(0, 2)).view(cut.shape)
        return done.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


class Stage(nn.Module):
    """Blocks, and what leads to the next stage unless this is the last."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, d, H, W]`` to the next stage's input."""
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """The encoder without neck and head.

    Args:
        widths: Channels of the stages, of which the first is convolutional.
        depths: Blocks of the stages.
        heads: Attention heads of the stages.
        windows: Side of the windows of the stages, in places.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 128, 160, 320),
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (2, 4, 5, 10),
        windows: tuple[int, ...] = (7, 7, 14, 7),
    ) -> None:
        super().__init__()
        stem = (ConvNorm(3, widths[0] // 2, 3, 2), nn.GELU())
        seq = nn.Sequential(*stem, ConvNorm(widths[0] // 2, widths[0], 3, 2))
        self.patch_embed = nn.ModuleDict({"seq": seq})
        last = len(widths) - 1
        stages = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks: list[nn.Module] = [
                Block(width, heads[i], windows[i])
                if i
                else Bottleneck(width, 4 * width, width, 1, residual=True)
                for _ in range(depth)
            ]
            stride = 1 if i + 1 == last else 2
            following = None if i == last else widths[i + 1]
            lead = following and Bottleneck(
                width, following, following, stride, residual=False
            )
            stages.append(Stage(blocks, lead or None))
        self.layers = nn.Sequential(*stages)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map images ``[N, 3, H, W]`` to the last map, ``[N, d, H/16, W/16]``."""
        return self.layers(self.patch_embed["seq"](pixel_values))


def pretrained() -> TinyViT:
    """Fetch the weights and load them; every key must fit.

    Returns:
        The model, in evaluation mode.

    Raises:
        AssetError: If the checkpoint is not of this model.
    """
    file = assets.fetch("mobilesam") / "mobile_sam.pt"
    saved = torch.load(file, map_location="cpu", weights_only=True)
    own = {k.removeprefix(PREFIX): v for k, v in saved.items() if k.startswith(PREFIX)}
    model = TinyViT().eval()
    wrong = model.load_state_dict(own, strict=False)
    unexpected = [k for k in wrong.unexpected_keys if not k.startswith(UNUSED)]
    if wrong.missing_keys or unexpected:
        raise assets.AssetError(
            f"{file} is of another model: it lacks {wrong.missing_keys}, and has "
            f"{unexpected} besides"
        )
    return model


def network(model: TinyViT) -> kfac.Network:
    """Put a TinyViT under its output map, ``[N, d]``."""

    def pooled(module: nn.Module, batch: Batch) -> Tensor:
        return normalize(module(**batch).mean((2, 3)), dim=1)

    info = NamedConfig("mean-pooled-map", {"normalised": True})
    return kfac.Network(model, kfac.OutputMap(info, pooled), "mobile-sam/tinyvit-5m")


def suite_model() -> tuple[kfac.Network, Callable[[list[Image.Image]], Batch]]:
    """The pretrained network and what makes a batch of images, for the command.

    Returns:
        Both; images are scaled to ``SUITE_SIDE``.
    """
    return network(pretrained()), _batch


def _batch(rows: list[Image.Image]) -> Batch:
    scaled = [np.asarray(row.resize((SUITE_SIDE, SUITE_SIDE))) for row in rows]
    pixels = torch.tensor(np.stack(scaled)).movedim(-1, 1) / 255
    return {"pixel_values": _normalised(pixels)}


def _normalised(pixels: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(t).view(3, 1, 1) for t in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def images(split: str, count: int, side: int = SIDE) -> tuple[Tensor, list[int]]:
    """The first images of a split of CIFAR-10, as the network wants them, with classes.

    Args:
        split: ``train`` (the first 10 000 of them) or ``test``.
        count: How many.
        side: What they are scaled to, pixels.

    Returns:
        ``[count, 3, side, side]``, and a class each.
    """
    folder: Path = assets.fetch("cifar10")
    sheet = {"train": "data_batch_1.png", "test": "test_batch.png"}[split]
    rows = np.asarray(Image.open(folder / sheet).convert("RGB"))[:count]
    pixels = torch.tensor(rows).view(-1, SHEET, SHEET, 3).movedim(-1, 1) / 255
    scaled = _normalised(pixels)
    labels = json.loads((folder / f"{split}_lables.json").read_text())[:count]
    return interpolate(scaled, size=(side, side), mode="bilinear"), labels
