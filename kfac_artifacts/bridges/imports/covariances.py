"""A dictionary of the covariances of inputs, module by module: what many people keep.

A file of ``torch.save``, of safetensors or of numpy (npz) whose names are modules, or
their weights, and whose arrays are ``E[a aᵀ]``, or sums of ``a aᵀ`` if the user says
so. So are the files of CorDA (peft), of LoRA-Null, and of who penalises ``ΔW C ΔWᵀ``.
CorDA divides the inputs of each example by their largest entry first, which nobody can
undo: what is imported is a mean of the scaled inputs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import read_tensors
from kfac_artifacts.bridges.statistics import FORWARD, Known, Statistic, Statistics
from kfac_artifacts.errors import SettingsError


@final
@dataclass(frozen=True)
class Covariances(Import):
    """Covariances of inputs, ``[d_in, d_in]``, with a last row for a bias or without.

    Attributes:
        positions: Of how many positions each is the mean, or the sum; None if nobody
            knows, for means.
        sums: Whether they are sums over positions.
    """

    name = "covariances"
    needs_output_map = False  # inputs are of no function f

    positions: int | None = None
    sums: bool = False

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        if self.sums and self.positions is None:
            raise SettingsError("of how many positions are they sums? (--positions)")
        share = 1 / self.positions if self.sums and self.positions else 1.0
        entries = [
            Statistic(name, ((name,),), A.times(share), positions=self.positions)
            for name, A in read_tensors(path).items()
        ]
        return Statistics(tuple(entries), (path,), FORWARD)
