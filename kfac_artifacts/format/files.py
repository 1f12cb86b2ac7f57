"""Files that may be hostile or half-written: JSON, hashes, whole files."""

import hashlib
import json
import os
import tempfile
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


def identity(path: Path) -> tuple[int, ...] | None:
    """Tell a file from one that took its place later; None if there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to disk, and rename it."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            sync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sync(descriptor: int) -> None:
    """Flush an open file to disk."""
    os.fsync(descriptor)
