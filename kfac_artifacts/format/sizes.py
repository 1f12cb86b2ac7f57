"""How many bytes an artifact has beside its numbers, at most, and if it were dense."""

import json

from kfac_artifacts.artifact import Artifact, Loss
from kfac_artifacts.format.factor_info import FactorInfo, factor_to_json
from kfac_artifacts.format.files import dump_json
from kfac_artifacts.format.manifest import Manifest, to_json

LONG = Loss(
    error=0.12345678901234567,
    min_eigenvalue=-1.2345678901234567e-10,
    lift=1.2345678901234567e-10,
    inverse_error=1.2345678901234567e-10,
    null_overlap=1.2345678901234567e-10,
    diagonal_error=1.2345678901234567e-10,
)
"""Numbers that take as much room as numbers can."""
FILES = 400
"""Bytes of the manifest for a tensor file, and of the index."""


def described(info: FactorInfo, name: str = "") -> int:
    """Bytes of the manifest and of a header that describe one factor.

    Args:
        info: The factor.
        name: Its name.

    Returns:
        At most so many bytes.
    """
    manifest = dump_json({"factors": {name: factor_to_json(info, LONG)}})
    header = {
        f"{name}/{key}": {
            "dtype": "BF16",
            "shape": tensor.shape,
            "data_offsets": [10**15, 10**15],
        }
        for key, tensor in info.tensors.items()
    }
    return len(manifest) + len(json.dumps(header).encode())


def overhead(artifact: Artifact) -> int:
    """Bytes of the manifest without its factors, and of a short list of files.

    Args:
        artifact: The artifact.

    Returns:
        At most so many bytes, for an artifact of one tensor file.
    """
    empty = Manifest(artifact.provenance, artifact.blocks, {}, {})
    return len(dump_json(to_json(empty))) + FILES


def dense_bytes(artifact: Artifact) -> int:
    """Size of an artifact if its matrices were dense float32, in bytes.

    Args:
        artifact: Any artifact.

    Returns:
        4 bytes per entry; of factors that are diagonal by nature, of the diagonal.
    """
    dims: dict[str, int] = {}
    for block in artifact.blocks.values():
        dims |= dict(block.all_sizes(artifact.parameters, artifact.factors.structure))
    return sum(
        4 * (dim if artifact.factors.structure(name).name == "diagonal" else dim**2)
        for name, dim in dims.items()
    )
