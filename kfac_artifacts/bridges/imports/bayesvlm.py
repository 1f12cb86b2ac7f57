"""The Hessians of BayesVLM: of the projections of both towers of CLIP or SigLIP.

``{A,B}_{img,txt}_analytic.pt`` hold sums over n examples divided by √n, of inputs of a
projection and of the exact Hessian of the contrastive loss with respect to its output
(AaltoML/BayesVLM, ``scripts/hessian_estimation.py``), so

    A = A_… / √n        B = B_… / √n

Its prior precisions are left aside: this format has no damping.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import load_torch, tensors_of
from kfac_artifacts.bridges.statistics import (
    Known,
    Numbers,
    Statistic,
    Statistics,
    held,
    require_examples,
)
from kfac_artifacts.errors import FormatError

TOWERS = {
    "img": (("visual_projection",), ("vision_model.head.mlp.fc2",)),
    "txt": (("text_projection",), ("text_model.head",)),
}
"""The projection of a tower: that of CLIP, and that of SigLIP."""


@final
@dataclass(frozen=True)
class BayesVlm(Import):
    """A and B of both projections; its path is the directory of the four files."""

    name = "bayesvlm"

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        n = require_examples(self.name, known.examples)
        entries, files = [], []
        for tower, targets in TOWERS.items():
            own = [path / f"{role}_{tower}_analytic.pt" for role in "AB"]
            A, B = (_read(file).times(1 / math.sqrt(n)) for file in own)
            entries.append(Statistic(tower, targets, A, B, positions=n))
            files += own
        return Statistics(tuple(entries), tuple(files), data=path.resolve().name)


def _read(path: Path) -> Numbers:
    found = load_torch(path)
    if not isinstance(found, Tensor):
        raise FormatError(f"{path} is no tensor")
    return held(tensors_of({path.stem: found}, str(path))[path.stem])
