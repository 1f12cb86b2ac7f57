"""Second moments as ROME, MEMIT, EasyEdit and AlphaEdit cache them, a file per module.

``<module>_float32_mom2_<examples>.npz`` holds the *sum* of ``k kᵀ`` over the positions,
without centring, and their count (kmeng01/memit, ``util/runningstats.py``):

    mom2.mom2 = P A        mom2.count = P

They are looked for in ``<stats>/<model>/<dataset>_stats``; the number in the name is
that of examples that the program was told to take (``mom2_n_samples``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from typing_extensions import override

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges.exporting import Export
from kfac_artifacts.bridges.own_inputs import inputs_of

CONSTRUCTOR = "util.runningstats.SecondMoment()"


@final
@dataclass(frozen=True)
class MemitNpz(Export):
    """A directory of files.

    Attributes:
        samples: The number of examples in the names; as many as were used, if None.
    """

    name = "memit-npz"
    use = "input_inverse"

    samples: int | None = None

    @override
    def write(self, artifact: Artifact, place: Path) -> Mapping[str, str]:
        found, left = inputs_of(artifact, self.modules)
        used = sum(source.data.examples for source in artifact.provenance.sources)
        samples = self.samples or used
        for own in found:
            moment = (own.covariance * own.positions).float().numpy()
            name = f"{self.prefix}{own.name}_float32_mom2_{samples}.npz"
            content: dict[str, Any] = {
                "mom2.constructor": CONSTRUCTOR,
                "mom2.count": own.positions,
                "mom2.mom2": moment,
                "sample_size": samples,
            }
            np.savez(place / name, **content)
        return left
