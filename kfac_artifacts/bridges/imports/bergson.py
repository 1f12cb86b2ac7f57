"""bergson's covariances: row shards of sums, a file for every process.

Of T positions that carry a gradient and n documents (bergson 2.5, ``hessians/kfac.py``)

    A = activation_sharded / T      B = gradient_sharded / n      T = total_processed

with the loss of a document summed over its positions. Experts have counts of their own,
which are not in the files. The loss is of labels that the model draws, or those of the
data.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import load_torch, read_safetensors
from kfac_artifacts.bridges.statistics import (
    Known,
    Numbers,
    Statistic,
    Statistics,
    require_examples,
    whole,
)
from kfac_artifacts.errors import FormatError, MismatchError, SourceError

SHARDS = ("activation_sharded", "gradient_sharded")
COUNT, CONFIG = "total_processed.pt", "config.yaml"
OTHERS = re.compile(
    r"^[ -]*method:\s*['\"]?(tkfac|shampoo|autocorrelation)\b", re.MULTILINE
)
MOST_CONFIG = 2**20
"""Bytes of a configuration that are looked at."""


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
        files = [_shards(path / name) for name in SHARDS]
        A, B = (_joined(shards) for shards in files)
        if A.keys() != B.keys():
            raise FormatError(f"{path}: {' and '.join(SHARDS)} are of other modules")
        routed = [name for name in A if ".experts." in name]
        if routed:
            raise MismatchError(
                f"{routed[0]} is an expert, and the files do not tell how many "
                "positions were routed to it; leave experts out in bergson"
            )
        entries = tuple(
            Statistic(
                name,
                ((name,),),
                A[name].times(1 / max(positions, 1)),
                B[name].times(1 / n),
                positions=positions,
            )
            for name in A
        )
        used = (*files[0], *files[1], path / COUNT)
        return Statistics(entries, used, data=path.resolve().name)


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
