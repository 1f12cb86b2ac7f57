"""The bytes of a file, unpacked as a stream if it is compressed."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from kfac_artifacts.errors import SourceError

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}
MOST_TIMES, HARMLESS = 2000, 2**30
"""Refused is what grows to more than so many times its size, and more than a GiB."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_OPENERS: dict[str, Callable[[Path], Any]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "zstd": lambda path: pa.input_stream(str(path), compression="zstd"),
    "lz4": lambda path: pa.input_stream(str(path), compression="lz4"),
}


def compression(path: Path) -> str | None:
    """Name how a file is compressed; its content decides, not its name."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((n for magic, n in _MAGIC.items() if start.startswith(magic)), None)


def open_bytes(path: Path) -> io.BufferedReader:
    """Open a file, compressed or not.

    Args:
        path: The file.

    Returns:
        Its content as a stream, which never holds more than a buffer in memory.
    """
    how = compression(path)
    if how is None:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path, _OPENERS[how](path), how))


class _Unpacked(io.RawIOBase):
    """A compressed file that says in one sentence what is wrong with it."""

    def __init__(self, path: Path, inner: Any, how: str) -> None:
        super().__init__()
        self._path, self._inner, self._how = path, inner, how
        self._left = max(HARMLESS, MOST_TIMES * path.stat().st_size)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Unpack some more."""
        try:
            content = self._inner.read(len(buffer))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise SourceError(
                f"{self._path.name} cannot be unpacked as {self._how}; it is damaged, "
                "not complete, or followed by something else"
            ) from error
        self._left -= len(content)
        if self._left < 0:
            raise SourceError(
                f"{self._path.name} grows to more than {MOST_TIMES} times its size "
                "when it is unpacked, as no table does; unpack it yourself if it is one"
            )
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the file."""
        self._inner.close()
        super().close()
