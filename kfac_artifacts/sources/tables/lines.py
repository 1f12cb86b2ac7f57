"""The lines of a text file, decoded; what cannot be decoded is named by its line."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.unpack import open_bytes

MOST_CHARACTERS = 2**26
"""No line is longer, nor is one read that is."""

_BOMS = {  # the first of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CHUNK = 2**16


def find_encoding(path: Path, asked: str | None) -> str:
    """Find the encoding of a file: as asked, by its byte order mark, or UTF-8.

    Args:
        path: The file.
        asked: Name of an encoding, if the user gave one.

    Returns:
        The name of a codec.

    Raises:
        SourceError: If no encoding of text has that name.
    """
    if asked is None:
        with open_bytes(path) as file:
            start = file.read(4)
        return next((e for bom, e in _BOMS.items() if start.startswith(bom)), "utf-8")
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=asked)
        return codecs.lookup(asked).name
    except (LookupError, ValueError) as error:
        raise SourceError(
            f"{asked!r} is no encoding; write for example utf-8, utf-16, cp1252 or "
            "latin-1 (--encoding)"
        ) from error


class Lines(Iterator[str]):
    """The lines of a file one after the other, with their ends.

    Attributes:
        number: Number of the line that was given last, from 1.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.number = 0
        self._path, self._encoding = path, encoding
        self._file = io.TextIOWrapper(open_bytes(path), encoding, newline="")

    def __next__(self) -> str:
        try:
            line = self._file.readline(MOST_CHARACTERS)
        except UnicodeError as error:
            raise self._undecodable() from error
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) >= MOST_CHARACTERS or "\0" in line:
            raise self._refused(line)
        return line.removeprefix("\ufeff") if self.number == 1 else line

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _refused(self, line: str) -> SourceError:
        where = f"{self._path.name}: line {self.number:,}"
        if "\0" in line:
            return SourceError(
                f"{where} holds a NUL character, as no text does; if the file is in "
                "another encoding, such as utf-16-le, name it (--encoding)"
            )
        return SourceError(f"{where} is longer than {MOST_CHARACTERS:,} characters")

    def _undecodable(self) -> SourceError:
        """Find the first byte that cannot be decoded."""
        decoder = codecs.getincrementaldecoder(self._encoding)()
        lines, found = 1, "its end"
        with open_bytes(self._path) as file:
            while True:
                chunk = file.read(_CHUNK)
                try:
                    lines += decoder.decode(chunk, final=not chunk).count("\n")
                except UnicodeDecodeError as error:
                    before = error.object[: error.start]
                    lines += before.decode(self._encoding, "ignore").count("\n")
                    found = f"the byte 0x{error.object[error.start]:02x}"
                    break
                except UnicodeError:
                    found = "the first byte, since there is no byte order mark"
                    break
                if not chunk:
                    break
        name = self._encoding.removesuffix("-sig")
        return SourceError(
            f"{self._path.name} is not in {name}: line {lines:,} cannot be decoded, at "
            f"{found}; name the encoding that it is in, such as cp1252, latin-1 or "
            "utf-16 (--encoding)"
        )
