"""Bytes of artifacts."""

from pathlib import Path

from kfac_artifacts.artifact import Artifact


def tensor_bytes(artifact: Artifact) -> int:
    """Bytes of all tensors of an artifact on disk, each factor once."""
    return sum(map(artifact.factors.nbytes, artifact.factors))


def bytes_on_disk(path: Path) -> int:
    """Bytes of all files in a directory, the manifest among them."""
    return sum(file.stat().st_size for file in path.iterdir())
