"""bergson's covariances: row shards of sums, a file for every process.

Of T positions that carry a gradient and n documents (bergson 2.5, ``hessians/kfac.py``
and ``eigenvectors.py``)

    A = activation_sharded / T      B = gradient_sharded / n      T = total_processed

with the loss of a document summed over its positions, and for EK-FAC

    S = eigenvalue_correction_sharded      r = √(T / n)
    λ_A = factor_eig_a / r                 λ_B = factor_eig_g r

along the eigenvectors in ``eigen_activation_sharded`` and ``eigen_gradient_sharded``.
Experts have counts of their own, which are not in the files. The loss is of labels that
the model draws, or those of the data.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import load_torch, read_safetensors
from kfac_artifacts.bridges.statistics import (
    Eigen,
    Known,
    Numbers,
    Statistic,
    Statistics,
    require_examples,
    whole,
)
from kfac_artifacts.errors import FormatError, MismatchError, SourceError

SHARDS = ("activation_sharded", "gradient_sharded")
VECTORS = ("eigen_activation_sharded", "eigen_gradient_sharded")
VALUES = ("factor_eig_a", "factor_eig_g")
CORRECTIONS = "eigenvalue_correction_sharded"
COUNT, CONFIG = "total_processed.pt", "config.yaml"
OTHERS = re.compile(
    r"^[ -]*method:\s*['\"]?(tkfac|shampoo|autocorrelation)\b", re.MULTILINE
)
MOST_CONFIG = 2**20
"""Bytes of a configuration that are looked at."""


Found: TypeAlias = Mapping[str, Mapping[str, Numbers]]
"""Arrays by kind and module."""


@final
@dataclass(frozen=True)
class Bergson(Import):
    """A and B of all modules; its path is the directory of a run."""

    name = "bergson"

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        n = require_examples(self.name, known.examples)
        _check_method(path / CONFIG)
        count = load_torch(path / COUNT)
        if not isinstance(count, Tensor):
            raise FormatError(f"{path / COUNT} is no tensor")
        positions = whole(count)
        corrected = (path / CORRECTIONS).is_dir()
        wanted = (*VECTORS, *VALUES, CORRECTIONS) if corrected else SHARDS
        shards = {name: _shards(path / name) for name in wanted}
        if corrected:
            shards[VALUES[0]] = shards[VALUES[0]][:1]  # every process has all of them
        found = {name: _joined(files) for name, files in shards.items()}
        modules = found[wanted[0]]
        if any(own.keys() != modules.keys() for own in found.values()):
            raise FormatError(
                f"{path}: {', '.join(wanted)} are not of the same modules"
            )
        _check_experts(modules)
        make = _eigen if corrected else _kronecker
        entries = tuple(make(name, found, max(positions, 1), n) for name in modules)
        files = [file for each in shards.values() for file in each]
        used = (*files, path / COUNT)
        return Statistics(entries, used, data=path.resolve().name)


def _kronecker(module: str, found: Found, positions: int, n: int) -> Statistic:
    A, B = (found[name][module] for name in SHARDS)
    own = A.times(1 / positions), B.times(1 / n)
    return Statistic(module, ((module,),), *own, positions=positions)


def _eigen(module: str, found: Found, positions: int, n: int) -> Statistic:
    root = math.sqrt(positions / n)
    U, V = (found[name][module] for name in VECTORS)
    of_inputs, of_outputs = (found[name][module] for name in VALUES)
    A, B = Eigen(U, of_inputs.times(1 / root)), Eigen(V, of_outputs.times(root))
    S = found[CORRECTIONS][module]
    return Statistic(module, ((module,),), A, B, S, positions=positions)


def _check_experts(modules: Iterable[str]) -> None:
    routed = [name for name in modules if ".experts." in name]
    if routed:
        raise MismatchError(
            f"{routed[0]} is an expert, and the files do not tell how many positions "
            "were routed to it; leave experts out in bergson"
        )


def _check_method(config: Path) -> None:
    """Refuse other factors than those of KFAC, if the run tells."""
    if not config.is_file():
        return
    with config.open(errors="replace") as file:
        found = OTHERS.search(file.read(MOST_CONFIG))
    if found:
        raise MismatchError(f"{config} tells of the method {found[1]}, not kfac")


def _shards(folder: Path) -> list[Path]:
    numbers = {
        int(found[1]): file
        for file in folder.glob("*.safetensors")
        if (found := re.fullmatch(r"shard_(\d+)\.safetensors", file.name))
    }
    if not numbers or sorted(numbers) != list(range(len(numbers))):
        raise SourceError(f"{folder} has not all of shard_0.safetensors and so on")
    return [numbers[i] for i in sorted(numbers)]


def _joined(shards: list[Path]) -> dict[str, Numbers]:
    """Matrices whose rows are in several files."""
    parts = [read_safetensors(shard) for shard in shards]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise FormatError(f"{shards[0].parent}: shards are of other modules")

    def join(name: str) -> Numbers:
        own = [part[name] for part in parts]
        shape = (sum(each.shape[0] for each in own), *own[0].shape[1:])
        return Numbers(shape, lambda: torch.cat([each.get() for each in own]))

    return {name: join(name) for name in parts[0]}
