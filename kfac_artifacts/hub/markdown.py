"""Markdown in which foreign strings are harmless."""

import re


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """Show a foreign string as it is."""
    return f"`{_plain(text).replace('`', '´')}`"


def plain_text(text: str) -> str:
    """Take from a foreign string what would be markup."""
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", _plain(text))


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "/")
