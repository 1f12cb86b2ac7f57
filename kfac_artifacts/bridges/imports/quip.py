"""The Hessians of QuIP#, QTIP and VPTQ: a file for every input of every layer.

``<layer>_{qkv,o,up,down}.pt`` holds the lower triangle of a *centred* covariance, the
mean, and the number of positions (Cornell-RelaxML/quip-sharp,
``quantize_llama/hessian_offline_llama.py``):

    flatH = E[a aᵀ] - μ μᵀ      mu = μ      ct = P

Queries, keys and values have one input, and so have the gate and the way up.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import load_torch, tensors_of
from kfac_artifacts.bridges.statistics import (
    FORWARD,
    Known,
    Numbers,
    Statistic,
    Statistics,
    from_triangle,
)
from kfac_artifacts.errors import FormatError, SourceError

FILE = re.compile(r"(\d+)_(qkv|o|up|down)\.pt")
MODULES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "up": ("mlp.up_proj", "mlp.gate_proj"),
    "down": ("mlp.down_proj",),
}
"""Modules of a layer that have an input, by the name of its file."""


@final
@dataclass(frozen=True)
class Quip(Import):
    """Inputs of all layers; its path is the directory of the files."""

    name = "quip"
    needs_output_map = False  # inputs are of no function f

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        found = [f for f in path.glob("*.pt") if FILE.fullmatch(f.name)]
        files = sorted(
            found, key=lambda file: (int(file.name.split("_")[0]), file.name)
        )
        if not files:
            raise SourceError(f"{path} has no files such as 0_qkv.pt")
        entries = tuple(_read(file) for file in files)
        return Statistics(entries, tuple(files), FORWARD, data=path.resolve().name)


def _read(path: Path) -> Statistic:
    found = load_torch(path)
    try:
        flat, mean, size, count = (found[key] for key in ("flatH", "mu", "n", "ct"))
    except (KeyError, TypeError, IndexError) as error:
        raise FormatError(f"{path} has not flatH, mu, n and ct") from error
    numbers = isinstance(size, int) and isinstance(count, int) and size > 0 < count
    tensors_of({"flatH": flat, "mu": mean}, str(path))
    shapes = (size * (size + 1) // 2,), (size,)
    if not numbers or (flat.shape, mean.shape) != shapes:
        raise FormatError(f"{path}: flatH and mu are not of a matrix of n rows")

    def read() -> Tensor:
        mu = mean.double()
        whole = torch.ones(size + 1, size + 1, dtype=torch.float64)
        whole[:-1, :-1] = from_triangle(flat.double(), size) + torch.outer(mu, mu)
        whole[:-1, -1] = whole[-1, :-1] = mu
        return whole

    layer, _, kind = path.stem.partition("_")
    targets = tuple(f"layers.{layer}.{module}" for module in MODULES[kind])
    A = Numbers((size + 1, size + 1), read)
    return Statistic(path.stem, (targets,), A, positions=count, constant=True)
