"""Bytes of artifacts."""

from pathlib import Path

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.factors import Diagonal
from kfac_artifacts.format import StoredFactors

FLOAT32 = 4


def dense_bytes(artifact: Artifact) -> int:
    """Bytes of all factors as full float32 matrices; of diagonal ones as vectors.

    Args:
        artifact: One that nothing was taken from, opened from a directory.

    Returns:
        ``4 Σ d²``, with d in place of d² where a factor is diagonal by itself.
    """
    infos = _stored(artifact).infos.values()
    return sum(
        FLOAT32 * info.dim ** (1 if info.structure.name == Diagonal.name else 2)
        for info in infos
    )


def tensor_bytes(artifact: Artifact) -> int:
    """Bytes of all tensors of an artifact on disk, each factor once."""
    return sum(info.nbytes for info in _stored(artifact).infos.values())


def bytes_on_disk(path: Path) -> int:
    """Bytes of all files in a directory, the manifest among them."""
    return sum(file.stat().st_size for file in path.iterdir())


def _stored(artifact: Artifact) -> StoredFactors:
    if not isinstance(artifact.factors, StoredFactors):
        raise TypeError("only artifacts on disk have sizes")
    return artifact.factors
