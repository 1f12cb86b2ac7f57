"""What a command is given, looked at before anything slow is imported."""

from collections.abc import Iterable
from pathlib import Path


def check_artifacts(paths: Iterable[Path]) -> None:
    """Refuse what is no artifact, by its manifest and headers."""
    from kfac_artifacts.format import read_header

    for path in paths:
        read_header(path)


def check_vectors(paths: Iterable[Path]) -> None:
    """Refuse what is no task vector, by its manifest."""
    from kfac_artifacts.task_vector import read_manifest

    for path in paths:
        read_manifest(path)
