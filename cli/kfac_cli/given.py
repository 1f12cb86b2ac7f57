"""What a command is given, looked at before anything slow is imported."""

from collections.abc import Iterable
from pathlib import Path

VECTOR, ADAPTER = "task_vector.json", "adapter_config.json"


def is_vector(path: Path) -> bool:
    """Whether a directory claims to be a task vector."""
    return (path / VECTOR).is_file()


def check_artifacts(paths: Iterable[Path]) -> None:
    """Refuse what is no artifact, by its manifest and headers."""
    from kfac_artifacts.format import read_header

    for path in paths:
        read_header(path)


def is_adapter(path: Path) -> bool:
    """Whether a directory claims to be an adapter of ``peft``."""
    return (path / ADAPTER).is_file() and not is_vector(path)


def check_vectors(paths: Iterable[Path]) -> None:
    """Refuse what is no task vector, by its manifest."""
    from kfac_artifacts.task_vector import read_manifest

    for path in paths:
        read_manifest(path)


def check_plot(path: Path | None, inputs: Iterable[str | Path]) -> None:
    """Refuse a picture that cannot be drawn, if one is asked for."""
    if path is not None:
        from kfac_artifacts.plotting import check_plottable

        check_plottable(path, inputs)
