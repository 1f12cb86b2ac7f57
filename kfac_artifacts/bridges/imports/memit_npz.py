"""Second moments that ROME, MEMIT, EasyEdit and AlphaEdit have cached, by module.

The export of the same name has the layout: ``mom2.mom2`` is a sum, ``mom2.count`` the
number of positions, so ``A = mom2.mom2 / mom2.count``. Names of files begin with those
of modules.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import read_npz
from kfac_artifacts.bridges.statistics import (
    FORWARD,
    Known,
    Statistic,
    Statistics,
    whole,
)
from kfac_artifacts.errors import FormatError, SourceError

FILE = re.compile(r"(.+?)_(?:float32|float64|float16|bfloat16)_mom2.*\.npz")


@final
@dataclass(frozen=True)
class MemitNpz(Import):
    """Inputs of modules; its path is one file, or a directory of them."""

    name = "memit-npz"
    needs_output_map = False  # inputs are of no function f

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        files = [path] if path.is_file() else sorted(path.glob("*.npz"))
        names = [FILE.fullmatch(file.name) for file in files]
        if not files or None in names:
            raise SourceError(
                f"{path} has no files like MODULE_float32_mom2_100000.npz"
            )
        entries = tuple(
            _read(file, name[1])
            for file, name in zip(files, names, strict=True)
            if name is not None
        )
        return Statistics(entries, tuple(files), FORWARD, data=path.resolve().name)


def _read(file: Path, module: str) -> Statistic:
    found = read_npz(file)
    if not {"mom2.mom2", "mom2.count"} <= found.keys():
        raise FormatError(f"{file} has not mom2.mom2 and mom2.count")
    count = whole(found["mom2.count"].get())
    A = found["mom2.mom2"].times(1 / max(count, 1))
    return Statistic(module, ((module,),), A, positions=count)
