"""Hessians for QuIP#, QTIP and VPTQ: centred covariances, a file for every input.

The import of the same name has the layout. Maps of one input are one file: their A has
to be one factor, and has to have the mean in it, by a bias or ``--means``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from typing_extensions import override

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges.exporting import Export
from kfac_artifacts.bridges.imports.quip import MODULES
from kfac_artifacts.bridges.own_inputs import OwnInputs, inputs_of
from kfac_artifacts.bridges.statistics import to_triangle
from kfac_artifacts.errors import MismatchError

MODULE = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")
NO_PLACE = "the format has no file for it"


@final
@dataclass(frozen=True)
class Quip(Export):
    """A directory of files."""

    name = "quip"
    use = "input_inverse"

    @override
    def write(self, artifact: Artifact, place: Path) -> Mapping[str, str]:
        found, left = inputs_of(artifact, self.modules)
        kinds = {name: kind for kind, names in MODULES.items() for name in names}
        written: dict[str, OwnInputs] = {}
        for own in found:
            match = MODULE.fullmatch(own.name)
            if match is None or match[2] not in kinds:
                left[own.name] = NO_PLACE
                continue
            file = f"{match[1]}_{kinds[match[2]]}.pt"
            first = written.setdefault(file, own)
            if first.factor != own.factor:
                raise MismatchError(
                    f"{first.name} and {own.name} have one file, {file}, but two A"
                )
            if first is own:
                _save(own, place / file)
        if not written:
            raise MismatchError("nothing in it is called like layers.0.mlp.up_proj")
        return left


def _save(own: OwnInputs, file: Path) -> None:
    mu = own.mean
    H = own.covariance - torch.outer(mu, mu)
    torch.save(
        {
            "flatH": to_triangle(H).float(),
            "mu": mu.float(),
            "n": len(mu),
            "ct": own.positions,
        },
        file,
    )
