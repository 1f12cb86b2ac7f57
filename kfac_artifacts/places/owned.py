"""What this package wrote, recognised by its content: nothing else is ever replaced."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfac_artifacts.errors import PlaceError, listed
from kfac_artifacts.places.names import own_entries

ARTIFACT, TASK_VECTOR = "kfac.json", "task_vector.json"
APPLIED_MARKER, APPLIED_FORMAT = "kfac_apply.json", "kfac-applied-model"
ADAPTER_MARKER, ADAPTER_FORMAT = "kfac_adapter.json", "kfac-adapter"
MOST_BYTES = 64 * 2**20
ARTIFACT_FILES = re.compile(
    r"kfac\.json|README\.md|spectra\.svg|pulled\.json|model\.sig|factors(-\d{5}-of-\d{5})?\.safetensors"
    r"|factors\.safetensors\.index\.json"
)
TASK_VECTOR_FILES = re.compile(
    r"task_vector\.(json|safetensors)|README\.md|pulled\.json|model\.sig"
)


def _artifact(directory: Path, _: Mapping[str, Any]) -> list[str]:
    return _others(directory, ARTIFACT_FILES)


def _task_vector(directory: Path, _: Mapping[str, Any]) -> list[str]:
    return _others(directory, TASK_VECTOR_FILES)


def _named(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    files = manifest.get("files")
    named = {str(f) for f in files} if isinstance(files, list) else set()
    own = named | {APPLIED_MARKER, ADAPTER_MARKER}
    return [f for f in contents_of(directory) if f not in own]


KINDS: dict[str, tuple[str, str, Callable[[Path, Mapping[str, Any]], list[str]]]] = {
    ARTIFACT: ("kfac-artifact", "an artifact", _artifact),
    TASK_VECTOR: ("kfac-task-vector", "a task vector", _task_vector),
    APPLIED_MARKER: (APPLIED_FORMAT, "a model that kfac wrote", _named),
    ADAPTER_MARKER: (ADAPTER_FORMAT, "an adapter that kfac wrote", _named),
}
"""By manifest: its ``format``, what it describes, and what else is in its directory."""


def check_replaceable(path: Path, shown: Path, *, replace: bool) -> None:
    """Refuse a place with anything in it that would be lost.

    Args:
        path: A directory, where it really is.
        shown: The place, as the user wrote it.
        replace: Whether what this package wrote may be replaced.

    Raises:
        PlaceError: If the place is taken.
    """
    names = own_entries(path)
    if not names:
        return
    kind, others = _recognise(path, names)
    if kind is None or others:
        than = f" than {kind}" if kind else " than what kfac writes"
        raise PlaceError(
            f"{shown} exists already, and holds other things{than} "
            f"({listed(others or names, 3, _plain)}), which would be lost; choose "
            "another place"
        )
    if not replace:
        raise PlaceError(f"{shown} exists already; choose another place, or --force")


def contents_of(directory: Path) -> list[str]:
    """List every file under a directory, and every link, by its path from there."""
    found = []
    for folder, folders, files in os.walk(directory):
        links = [f for f in folders if (Path(folder) / f).is_symlink()]
        top = Path(folder) == directory
        kept = set(own_entries(directory)) if top else None
        if kept is not None:
            folders[:] = [f for f in folders if f in kept]
        names = [n for n in [*files, *links] if kept is None or n in kept]
        found += [(Path(folder) / n).relative_to(directory).as_posix() for n in names]
    return sorted(found)


def _recognise(path: Path, names: list[str]) -> tuple[str | None, list[str]]:
    """Say what a directory is, and what in it does not belong to that."""
    for manifest, (format_, kind, others) in KINDS.items():
        if manifest in names:
            value = _read(path / manifest)
            if value.get("format") == format_:
                return kind, others(path, value)
    return None, []


def _others(directory: Path, own: re.Pattern[str]) -> list[str]:
    return [
        name
        for name in own_entries(directory)
        if not own.fullmatch(name)
        or ((directory / name).is_dir() and not (directory / name).is_symlink())
    ]


def _read(file: Path) -> dict[str, Any]:
    """Read a manifest only as far as to tell that it is one; kfac writes no links."""
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > MOST_BYTES:
            return {}
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _plain(name: str) -> str:
    return ascii(name)[1:-1]
