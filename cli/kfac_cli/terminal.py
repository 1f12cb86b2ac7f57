"""What a terminal is given: nothing that steers it, everything in its encoding.

Names in artifacts, on the Hub and of files are written by strangers. Every command
writes through ``readable``, so that none of them has to think of it.
"""

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what is not seen: controls, changes of writing direction,
characters of no width, halves of pairs, separators of lines and paragraphs."""
KEPT = "\n\t"
CURSOR_UP = "\x1b[A"
SPELLED = {
    "λ": "lambda",
    "²": "^2",
    "³": "^3",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "‖": "||",
    "Σ": "sum",
    "∞": "inf",
    "⟨": "<",
    "⟩": ">",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "→": "->",
    "↔": "<->",
    "⊗": "(x)",
    "ᵀ": "^T",
    "’": "'",
    "“": '"',
    "”": '"',
    "█": "#",
}
"""Our own signs, for encodings that lack them."""


@contextmanager
def readable() -> Iterator[None]:
    """Let stdout and stderr take any text, and show it harmless and legible."""
    before = sys.stdout, sys.stderr
    ours = sys.stdout, sys.stderr = Readable(before[0]), Readable(before[1])
    try:
        yield
    finally:  # click puts others there that bear a reader who has gone
        if (sys.stdout, sys.stderr) == ours:
            sys.stdout, sys.stderr = before


class Readable:
    """A text stream that writes to another one what is left of a text."""

    encoding = "utf-8"  # whoever asks may write anything
    errors = "strict"

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def limited(self) -> bool:
        """Whether the encoding of the stream lacks some characters."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return not encoding.lower().replace("-", "").startswith("utf")

    def write(self, text: str) -> int:
        """Write a text.

        Args:
            text: What is to be seen.

        Returns:
            Its length.

        Raises:
            TypeError: If it is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() takes a string, not {type(text).__name__}")
        shown = text
        if text.strip("\n").replace(CURSOR_UP, ""):  # else a bar of progress moves
            start = "\r" if text.startswith("\r") else ""
            shown = start + self.legible(text.removeprefix("\r"))
        self._stream.write(shown)
        return len(text)

    def legible(self, text: str) -> str:
        """What is left of a text: nothing that steers, everything in the encoding."""
        shown = harmless(text)
        return spelled(shown, self._stream.encoding) if self.limited else shown

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def on_one_line(text: str) -> str:
    """What is left of a text on stdout, with breaks and tabs escaped as well."""
    legible = getattr(sys.stdout, "legible", harmless)
    return legible(text).replace("\n", "\\n").replace("\t", "\\t")


def harmless(text: str) -> str:
    r"""Escape what steers a terminal or is not seen: ``\x1b``, ``\u202e``.

    Args:
        text: Any text.

    Returns:
        The same with escapes, which in a JSON string mean the same character.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if _steers(c) else c for c in text)


def spelled(text: str, encoding: str) -> str:
    """Spell out what an encoding lacks: ``lambda`` for λ.

    Args:
        text: Any text.
        encoding: Name of the encoding.

    Returns:
        A text that it can encode.
    """
    return "".join(c if _has(encoding, c) else _spelling(c, encoding) for c in text)


def _steers(character: str) -> bool:
    return character not in KEPT and unicodedata.category(character) in STEERING


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"  # as JSON writes it


def _spelling(character: str, encoding: str) -> str:
    if character in SPELLED:
        return SPELLED[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER "):
        return name.rsplit(" ", 1)[-1].lower()
    plain = "".join(
        c for c in unicodedata.normalize("NFKD", character) if _has(encoding, c)
    )
    return plain or _escaped(character)


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
