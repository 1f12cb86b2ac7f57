"""Kinds of modules and loose parameters, each against brute force, or reported."""

from typing import Any

import pytest
import torch
from torch import nn

from kfac_artifacts.artifact import GramianBlock
from kfac_artifacts.capture.layers.kinds import MAX_GRAMIAN
from kfac_artifacts.errors import CoverageError
from tests.brute_force import artifact_of, assert_exact, randomised


def numbers(*shape: Any) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


def call(module: nn.Module, batch: Any) -> Any:
    return module(batch["x"])


class _Pooled(nn.Module):
    """A layer, a nonlinearity, and the mean over all that is not channels."""

    def __init__(self, layer: Any, channels: Any = None) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(channels, 2) if channels else nn.Identity()

    def forward(self, x: Any) -> Any:
        z = torch.tanh(self.layer(x))
        return self.head(z.flatten(2).mean(2) if z.dim() > 2 else z)


CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 3, 3, stride=2, padding=1), (6,)),
    "1d, depthwise, causal": (nn.Conv1d(4, 4, 3, groups=4, padding=2), (6,)),
    "2d": (nn.Conv2d(4, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (5, 4)),
    "2d, same": (nn.Conv2d(4, 3, (3, 2), padding="same"), (4, 5)),
    "2d, same, dilated": (nn.Conv2d(4, 3, 3, padding="same", dilation=2), (5, 5)),
    "2d, reflect": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), (4, 5)),
    "2d, circular": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), (4, 5)),
    "2d, no bias": (nn.Conv2d(4, 3, 2, bias=False), (4, 4)),
    "2d, depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 5)),
    "2d, depthwise, doubled": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (4, 5)),
    "2d, two groups": (nn.Conv2d(4, 6, 3, stride=2, groups=2), (5, 5)),
    "3d": (nn.Conv3d(4, 3, (2, 1, 2), stride=(1, 2, 1)), (3, 3, 3)),
    "3d, grouped": (nn.Conv3d(4, 2, 2, groups=2), (3, 3, 3)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_are_exact(kind: str) -> None:
    layer, space = CONVOLUTIONS[kind]
    module = randomised(_Pooled(layer, layer.out_channels))
    assert assert_exact(module, call, {"x": numbers(3, 4, *space)}) == {}


def test_a_grouped_convolution_too_large_for_its_gramian_is_reported() -> None:
    layer = nn.Conv2d(1024, 1024, 3, groups=1024)
    assert layer.weight.numel() > MAX_GRAMIAN
    uncovered = assert_exact_but(layer, 1024, numbers(2, 1024, 3, 3))
    assert uncovered == "a grouped convolution; its Gramian would be of size 9216"


def test_a_transposed_convolution_is_reported() -> None:
    layer = nn.ConvTranspose2d(2, 3, 2)
    assert assert_exact_but(layer, 3, numbers(3, 2, 3, 3)) == "a transposed convolution"


def assert_exact_but(layer: Any, channels: Any, x: Any) -> Any:
    """The reason for a layer's weight and bias, when all else is covered."""
    artifact = artifact_of(_Pooled(layer, channels), call, {"x": x})
    assert set(artifact.parameters) == {"head.weight", "head.bias"}
    reasons = artifact.provenance.uncovered
    assert set(reasons) == {"layer.weight", "layer.bias"}
    assert len(set(reasons.values())) == 1
    return reasons["layer.weight"]


def test_branches_with_other_patches_of_one_input_do_not_share_a_factor() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near = nn.Conv2d(2, 3, 3, padding=1)
            self.far = nn.Conv2d(2, 3, 3, padding=2, dilation=2)

        def forward(self, x: Any) -> Any:
            return torch.tanh(self.near(x) + self.far(x)).mean((2, 3))

    assert assert_exact(Pyramid(), call, {"x": numbers(3, 2, 5, 5)}) == {}


class _GemmaNorm(nn.Module):
    """Its weight is kept less one, and multiplied in float32 as a rule."""

    def __init__(self, width: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Any) -> Any:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return x * (1 + self.weight)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Any) -> Any:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS = {
    "batch norm, pooled": (nn.BatchNorm1d(4), (4,)),
    "batch norm 1d": (nn.BatchNorm1d(4), (4, 5)),
    "batch norm 2d": (nn.BatchNorm2d(4), (4, 3, 3)),
    "batch norm 3d": (nn.BatchNorm3d(4), (4, 2, 2, 2)),
    "group norm": (nn.GroupNorm(2, 4), (4, 3, 4)),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), (4, 3, 4)),
    "instance norm, tracked": (
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        (4, 3, 4),
    ),
    "layer norm": (nn.LayerNorm(4), (3, 4)),
    "layer norm over two axes": (nn.LayerNorm((3, 4)), (4, 3, 4)),
    "layer norm, channels first": (LayerNorm2d(4), (4, 4, 4)),
    "layer norm without a bias": (nn.LayerNorm(4, bias=False), (4,)),
    "rms norm": (nn.RMSNorm(4), (3, 4)),
    "rms norm of one plus the weight": (_GemmaNorm(4), (3, 4)),
}


@pytest.mark.parametrize("kind", NORMS)
def test_norms_are_exact(kind: str) -> None:
    norm, shape = NORMS[kind]
    module = randomised(_Pooled(norm))
    assert assert_exact(module, call, {"x": numbers(5, *shape)}) == {}
    module.train()  # f is in evaluation mode, and so are the norms that it is made of
    before = {n: b.clone() for n, b in module.named_buffers()}
    artifact_of(module, call, {"x": numbers(5, *shape)})
    assert all(torch.equal(b, before[n]) for n, b in module.named_buffers())
    assert module.layer.training


def test_a_batch_norm_without_running_statistics_is_reported() -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(CoverageError, match="depends on the batch"):
        artifact_of(_Pooled(norm, 4), call, {"x": numbers(3, 4, 3, 3)})


class _Loose(nn.Module):
    def __init__(self, shape: Any, use: Any) -> None:
        super().__init__()
        self.loose = nn.Parameter(torch.zeros(shape))
        self.head = nn.Linear(4, 2)
        self.use = use

    def forward(self, x: Any) -> Any:
        z = torch.tanh(self.use(x, self.loose))
        return self.head(z.flatten(1, -2).mean(1) if z.dim() > 2 else z)


def _windows(x: Any, bias: Any) -> Any:
    """Attention in windows of two, folded into the first axis."""
    rows = x.flatten(0, 1)
    return ((rows @ rows.mT + bias).softmax(-1) @ rows).view(x.shape)


LOOSE = {
    "a scale of pooled vectors": ((4,), (4,), lambda x, p: x * p),
    "a scale of positions": ((4,), (2, 4), lambda x, p: x * p),
    "a scale of maps": ((4,), (2, 2, 4), lambda x, p: p * x),
    "a scale, channels first": (
        (4,),
        (2, 2, 4),
        lambda x, p: (x.movedim(-1, 1) * p[:, None, None]).movedim(1, -1),
    ),
    "a number": ((), (4,), lambda x, p: x * p.exp()),
    "a number for positions": ((1,), (3, 4), lambda x, p: x + p),
    "a class token": (
        (1, 1, 4),
        (2, 4),
        lambda x, p: torch.cat([p.expand(len(x), -1, -1), x], dim=1),
    ),
    "a class token, repeated": (
        (1, 1, 4),
        (2, 4),
        lambda x, p: torch.cat([p.repeat(len(x), 1, 1), x], dim=1),
    ),
    "a class vector": (
        (4,),
        (2, 4),
        lambda x, p: torch.cat([p + x.new_zeros(len(x), 1, 4), x], dim=1),
    ),
    "a table": ((2, 4), (2, 4), lambda x, p: x + p),
    "a part of a table": ((1, 5, 4), (2, 4), lambda x, p: x + p[:, 1:3]),
    "a table by channels": (
        (1, 4, 2, 3),
        (2, 3, 4),
        lambda x, p: x + p.permute(0, 2, 3, 1),
    ),
    "a table, interpolated": (
        (1, 4, 2, 2),
        (3, 3, 4),
        lambda x, p: (
            x + nn.functional.interpolate(p, (3, 3), mode="bicubic").permute(0, 2, 3, 1)
        ),
    ),
    "relative positions": (
        (3, 2),
        (2, 2, 4),
        lambda x, p: _windows(x, p[torch.tensor([[0, 1], [1, 2]])].sum(-1)),
    ),
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", LOOSE)
def test_loose_parameters_are_exact(kind: str, count: int) -> None:
    shape, space, use = LOOSE[kind]
    module = randomised(_Loose(shape, use))
    assert assert_exact(module, call, {"x": numbers(count, *space)}) == {}


def test_a_loose_parameter_that_multiplies_as_a_matrix_is_reported() -> None:
    module = randomised(_Loose((4, 4), lambda x, p: x @ p))
    artifact = artifact_of(module, call, {"x": numbers(3, 2, 4)})
    assert set(artifact.provenance.uncovered) == {"loose"}


def test_a_size_that_is_that_of_the_batch_by_chance_changes_nothing() -> None:
    """Three heads share a table; a batch of three must not take it for its own."""

    def use(x: Any, p: Any) -> Any:
        return x + p.expand(3, 2, 4).sum(0)

    module = randomised(_Loose((1, 2, 4), use))
    x = {"x": numbers(3, 2, 4)}
    assert assert_exact(module, call, x) == {}
    block = artifact_of(module, call, {"x": numbers(3, 2, 4)}).blocks["loose"]
    assert not isinstance(block, GramianBlock)


def test_a_size_that_is_that_of_the_proof_by_chance_is_reported() -> None:
    module = randomised(_Loose((1, 2, 4), lambda x, p: x + p.expand(2, 2, 4).sum(0)))
    artifact = artifact_of(module, call, {"x": numbers(3, 2, 4)})
    assert set(artifact.provenance.uncovered) == {"loose"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda x, p: x + p.expand(len(x), -1, -1),
            "otherwise than in the first batch",
        ),
        (lambda x, _: x, "depends on the batch"),
    ],
    ids=["expanded", "left out"],
)
def test_a_parameter_that_is_used_otherwise_later_is_an_error(
    other: Any, message: Any
) -> None:
    def use(x: Any, p: Any) -> Any:
        return x + p if len(x) == 2 else other(x, p)

    module = randomised(_Loose((1, 2, 4), use))
    with pytest.raises(CoverageError, match=message):
        artifact_of(module, call, {"x": numbers(3, 2, 4)})
