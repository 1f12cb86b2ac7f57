"""Files that may be hostile or half-written: strict JSON, hashes, whole files."""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from kfac_artifacts.errors import FormatError

MAX_JSON_BYTES = 64 * 2**20
MAX_DEPTH = 32
MAX_NUMBER = sys.float_info.max


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


def parse_json(content: bytes, where: str) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, nothing deep, nothing infinite.

    Args:
        content: The text, in UTF-8.
        where: What is being read, for the error.

    Returns:
        The parsed value; its strings can be written as UTF-8.

    Raises:
        FormatError: If it is not strict JSON.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
        _check_value(value, depth=0)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not valid JSON: {error}") from error
    return value


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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_value(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        value.encode()  # refuses half of a surrogate pair
    elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        raise ValueError("a number is too large")
    elif isinstance(value, dict):
        _check_value([*value.keys(), *value.values()], depth)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)
