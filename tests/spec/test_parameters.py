"""Parameters by name: found by whoever has the checkpoint alone, as the page says."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from kfac_artifacts.artifact import Layout, ParameterInfo
from kfac_artifacts.capture.layers.inventory import take_inventory
from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_network
from tests.sources import families

Tensors: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
STACKED = ("gate_up_proj", "down_proj")
"""Parameters that transformers stack and join while they load."""
SINGLE = {
    "MixtralForCausalLM": ("block_sparse_moe.experts", ("w1", "w3"), "w2"),
    "Qwen3MoeForCausalLM": ("mlp.experts", ("gate_proj", "up_proj"), "down_proj"),
}
JOINED = {
    "GteForSequenceClassification": {
        "self_attn": ("attention.qkv_proj", ("q_proj", "k_proj", "v_proj")),
        "mlp": ("mlp.up_gate_proj", ("up_proj", "gate_proj")),
    }
}
"""Where the file has one tensor for several parameters, one after another."""


def saved(path: Path, name: str) -> tuple[Network, Tensors]:
    """The network of f, and the checkpoint that was saved by the whole model."""
    directory = families.save(path / name, families.build(name))
    network = load_network(directory, output_map="embedding")
    return network, load_file(directory / "model.safetensors")


def sha256(values: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


def find(name: str, info: ParameterInfo, tensors: Tensors) -> str | None:
    """Rule P3.1."""
    size = int(np.prod(info.shape, dtype=object))
    fits = [
        n for n, v in tensors.items() if v.size == size and sha256(v) == info.sha256
    ]
    steps: list[Callable[[str], bool]] = [
        lambda n: n == name,
        lambda n: n.endswith(f".{name}"),
        lambda n: True,
    ]
    return next((n for step in steps for n in fits if step(n)), None)


@pytest.mark.parametrize("name", families.CLASSES)
def test_every_parameter_is_found_in_the_checkpoint(tmp_path: Path, name: str) -> None:
    network, tensors = saved(tmp_path, name)
    values = network.parameters()
    for parameter, info in network.base.parameters.items():
        found = find(parameter, info, tensors)
        own = [m for _, maps in JOINED.get(name, {}).values() for m in maps]
        if name in SINGLE and parameter.endswith(STACKED):
            assert found is None
            continue
        if {*parameter.split(".")} & {*own}:
            assert found is None
            continue
        assert found is not None, parameter
        np.testing.assert_array_equal(
            tensors[found].reshape(-1), values[parameter].detach().numpy().reshape(-1)
        )


@pytest.mark.parametrize("name", SINGLE)
def test_experts_that_are_stored_one_by_one_are_put_together(
    tmp_path: Path, name: str
) -> None:
    """Rule P3.3: by their numbers, joined maps along the axis of outputs."""
    network, tensors = saved(tmp_path, name)
    folder, joined, lone = SINGLE[name]
    stacks = {n: p for n, p in network.base.parameters.items() if n.endswith(STACKED)}
    assert stacks
    for parameter, info in stacks.items():
        layer = parameter.split(".mlp.")[0]
        maps = joined if parameter.endswith(STACKED[0]) else (lone,)
        slices = [
            [tensors[f"model.{layer}.{folder}.{e}.{m}.weight"] for m in maps]
            for e in range(info.shape[0])
        ]
        assert sha256(np.stack([np.concatenate(own) for own in slices])) == info.sha256


@pytest.mark.parametrize("name", JOINED)
def test_parameters_that_are_stored_as_one_are_rows_of_it(
    tmp_path: Path, name: str
) -> None:
    """Rule P3.3, the other way round."""
    network, tensors = saved(tmp_path, name)
    for part, (stored, maps) in JOINED[name].items():
        for kind in ("weight", "bias"):
            whole = tensors.get(f"gte.encoder.layer.1.{stored}.{kind}")
            if whole is None:
                continue
            for rows, own in zip(np.split(whole, len(maps)), maps, strict=True):
                info = network.base.parameters[f"layers.1.{part}.{own}.{kind}"]
                assert sha256(rows) == info.sha256


def test_of_tied_parameters_the_first_in_order_is_named() -> None:
    """Rule P1.2."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    inner: Any = module[1]
    inner[0].weight = module[0].weight
    assert [n for n, _ in module.named_parameters()] == [
        "0.weight",
        "0.bias",
        "1.0.bias",
    ]


KRONECKER: dict[str, tuple[nn.Module, Layout]] = {
    "linear": (nn.Linear(3, 2), Layout.ROWS),
    "conv1d": (Conv1D(2, 3), Layout.COLUMNS),
    "convolution": (nn.Conv2d(2, 3, 2), Layout.ROWS),
    "embedding": (nn.Embedding(4, 3), Layout.COLUMNS),
    "attention": (nn.MultiheadAttention(4, 2), Layout.ROWS),
}
GRAMIAN: dict[str, nn.Module] = {
    "grouped": nn.Conv2d(4, 4, 2, groups=2),
    "layer norm": nn.LayerNorm(3),
    "rms norm": nn.RMSNorm(3),
}


@pytest.mark.parametrize("name", [*KRONECKER, *GRAMIAN])
def test_modules_have_the_blocks_of_the_table(name: str) -> None:
    module, layout = KRONECKER.get(name) or (GRAMIAN[name], None)
    layers = take_inventory(module).layers
    assert [getattr(layer, "layout", None) for layer in layers][:1] == [layout]
    assert layers[0].has_gramian == (layout is None)


def test_no_layout_fits_a_transposed_convolution() -> None:
    module = nn.ConvTranspose2d(2, 3, 2)
    inventory = take_inventory(module)
    assert (inventory.layers, [*inventory.uncovered]) == ([], ["weight", "bias"])


def test_a_fused_projection_is_one_parameter() -> None:
    (project, *_) = take_inventory(nn.MultiheadAttention(4, 2)).layers
    names = {"weight": "in_proj_weight", "bias": "in_proj_bias"}
    assert project.parameters == names


def test_a_table_that_is_added_as_it_is_has_rows() -> None:
    module = nn.Module()
    module.position = nn.Parameter(torch.zeros(1, 5, 3))
    (layer,) = take_inventory(module).layers
    assert (layer.layout, layer.has_gramian) == (Layout.COLUMNS, False)  # type: ignore[attr-defined]
