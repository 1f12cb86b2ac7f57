"""Files that may be hostile or half-written: JSON, hashes, whole directories."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format.json_text import MAX_JSON_BYTES, parse_json


def read_json(path: Path) -> Any:
    """Read strict JSON of at most 64 MiB; see ``parse_json``.

    Args:
        path: File to read.

    Returns:
        The parsed value.

    Raises:
        FormatError: If the file is missing, too large or not strict JSON.
    """
    if not path.is_file():
        raise FormatError(f"{path} does not exist or is no file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise FormatError(f"{path} has more than {MAX_JSON_BYTES} bytes")
    return parse_json(path.read_bytes(), str(path))


def dump_json(value: Any) -> bytes:
    """Serialise as UTF-8 JSON: same value, same bytes; keys in the given order."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def sha256_file(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to disk, and rename it."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            sync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sync(descriptor: int) -> None:
    """Flush an open file to disk."""
    os.fsync(descriptor)


@contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a directory beside its place; it appears there whole, or not at all.

    Args:
        path: Where the directory shall be.
        replace: Whether a directory that is already there may be replaced.

    Yields:
        A temporary directory next to ``path``; fill it and leave the block.

    Raises:
        FormatError: If ``path`` exists, is not an empty directory, and ``replace`` is
            off, or if it is a file.
    """
    check_free(path, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        _sync_tree(temporary)
        _swap(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_free(path: Path, *, replace: bool = False) -> None:
    """Refuse a place that is taken, before any work is done.

    Args:
        path: Where a directory shall be written.
        replace: Whether a directory that is already there may be replaced.

    Raises:
        FormatError: If the place is taken.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FormatError(f"{path} exists and is no directory; choose another place")
    if not replace and path.is_dir() and any(path.iterdir()):
        raise FormatError(f"{path} exists already; choose another place, or --force")


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
    else:
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        path.rename(old)  # an empty directory may be renamed over
        try:
            new.rename(path)
        except BaseException:
            old.rename(path)
            raise
        shutil.rmtree(old)
    _sync_directory(path.parent)


def _sync_tree(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                sync(file.fileno())
    _sync_directory(root)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
